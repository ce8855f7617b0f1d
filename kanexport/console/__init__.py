"""What people type and see: the command and its output."""
