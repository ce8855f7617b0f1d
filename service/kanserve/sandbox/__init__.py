"""Sandbox: separate processes that load and check a version before the server does."""
