"""Command-line kit: exit codes, output, arguments and suggestions, for both programs."""
