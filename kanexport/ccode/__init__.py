"""C99 source of an exported network: one function for predictions, and one for contributions."""
