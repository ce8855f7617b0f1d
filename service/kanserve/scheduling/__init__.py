"""Who runs when, and with whom: pure functions of time and of what waits. No clock and no loop."""
