"""Who may call what: roles, the table of methods and routes, tokens and certificates."""
