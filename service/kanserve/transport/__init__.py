"""Transports: connections to calls. They know no method."""
