"""From a proof to a version in a model repository: what the manifest says, the files, the folder."""
