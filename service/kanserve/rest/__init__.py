"""REST API, web UI and probes: routes and their responses, on any ASGI server."""
