"""Use cases: plain types in, plain types out. No transport."""
