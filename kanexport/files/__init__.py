"""Files as data: which files make a checkpoint, and one module for each file format. Nothing in a file is executed."""
