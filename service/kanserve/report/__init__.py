"""Model report: its content, text tables and the HTML page."""
