"""Insight into loaded models: edges, explanations, statistics of live traffic."""
