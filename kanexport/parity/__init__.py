"""Parity with the trained model: its recorded outputs, and the interpretation that reproduces them."""
