"""Authentication and authorization: tokens, certificates, roles and permissions."""
