"""Live: loaded models and what is known about every version."""
