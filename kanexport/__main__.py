"""`python -m kanexport` is `kanserve export`."""

from kanexport.cli import main

raise SystemExit(main())
