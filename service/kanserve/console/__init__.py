"""What people see of the commands: rows in, results out, tables, progress."""
