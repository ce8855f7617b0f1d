"""On disk: what a repository folder holds, read once and checked."""
