"""Transports: each turns connections into calls, and knows nothing of what a method does."""
