"""Command `kanserve doctor`: checks of machine, repository, settings and a running server."""
