"""REST API, web UI and probes, as routes on any ASGI server."""
