"""Detection: the reader for a checkpoint, and networks from an architecture file."""
