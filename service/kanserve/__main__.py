"""Entry point of `python -m kanserve`, which runs the command `kanserve`."""

from kanserve.cli.main import main

raise SystemExit(main())
