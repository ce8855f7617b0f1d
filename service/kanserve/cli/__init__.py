"""Command line of kanserve: one module per command, and the modules that commands share."""
