"""Hot path of ModelInfer: calls of known callers whose message has a known head; see
docs/contributing/request-path.md.

method  the method itself: it looks up the head of a message, runs the request, and learns a new head
batch   requests of one head, which run together on the event loop; callers, counters and log lines of native calls
"""
