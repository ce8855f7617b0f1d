"""A Kan becomes graphs: one for inference, and one for each layer's edges."""
