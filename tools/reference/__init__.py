"""Generated pages of the documentation: one module per page, each with `page() -> str`."""
