"""HTTP without a transport: routes and what they answer. Imported only where a door speaks HTTP."""
