"""The commands of `kanserve`, one module each: `configure(parser)` and `run(args) -> exit code`."""
