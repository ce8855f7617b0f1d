"""gRPC services: from message bytes to a use case and back."""
