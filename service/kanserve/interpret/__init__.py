"""Pure functions behind the KAN service and its client: no files, no wire, no metrics."""
