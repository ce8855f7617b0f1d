"""`python -m kanserve` is the command `kanserve`."""

from kanserve.cli import main

raise SystemExit(main())
