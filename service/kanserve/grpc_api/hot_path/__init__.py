"""Hot path of ModelInfer: calls of known callers whose message has a known head; see
docs/contributing/request-path.md.

heads    a message's head, and what the requests with this head have in common
batch    requests of one head, which run together on the event loop
account  callers that native code may serve, and the counters and log lines of its calls
method   the method itself: it looks up the head, runs the request, and learns a new head
"""
