"""What the process tells of itself: metrics, statistics, logs."""
