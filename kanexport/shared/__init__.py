"""What both programs share: one voice, and one way to the runtime."""
