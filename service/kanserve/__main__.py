"""`python -m kanserve` is the command `kanserve`."""

from kanserve.cli.main import main

raise SystemExit(main())
