"""Edits of the edges of a network in memory: operations on single edges, exact where a closed form exists, otherwise
the nearest curve of the basis; and replacement by functions of the symbolic table, judged at the outputs."""
