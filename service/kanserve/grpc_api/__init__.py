"""gRPC services, which decode messages, run a use case and encode the response."""
