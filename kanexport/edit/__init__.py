"""Edits of single edges of a network in memory: exact where a closed form exists, otherwise the nearest curve of the
basis."""
