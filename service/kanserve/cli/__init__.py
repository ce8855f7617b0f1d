"""The command line of kanserve: one module per command, and the parts that commands share."""
