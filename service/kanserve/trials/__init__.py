"""Versions are tried in a process of their own before they are let into the server's."""
