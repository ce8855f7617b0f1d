"""Pure numpy behind the KAN service: no files, no wire, no metrics."""
