"""Server process: application, supervisor of workers, credential reload and watchdog."""
