"""Use cases of the server, with plain types as input and output and no knowledge of a transport."""
