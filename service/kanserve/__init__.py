"""kanserve: a request becomes arrays, the arrays meet a session, answers go home."""
