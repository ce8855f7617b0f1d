"""`python -m kanexport` is `kanserve export`."""

from kanexport.console.cli import main

raise SystemExit(main())
