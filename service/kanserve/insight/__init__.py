"""Insight into loaded models: edge queries, explanations, and statistics of the traffic."""
