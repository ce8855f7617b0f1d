"""Files as data: each module reads one file format and executes nothing of it."""
