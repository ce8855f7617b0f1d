"""What the trained model itself answered: rows of it, an export held against them, and what they decide."""
