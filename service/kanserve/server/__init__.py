"""The server process: application, supervisor of workers, credentials, watchdog."""
