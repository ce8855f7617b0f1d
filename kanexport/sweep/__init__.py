"""A whole folder of checkpoints, each exported in a process of its own."""
