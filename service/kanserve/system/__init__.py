"""Process resources: lifecycle, memory, threads, file descriptors, PEM files, compression."""
