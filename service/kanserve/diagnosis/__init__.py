"""What is right and wrong with a machine, a repository and a configuration, in words. Nothing is changed or served."""
