"""Model repository on disk: layout, snapshot, plan and validation."""
