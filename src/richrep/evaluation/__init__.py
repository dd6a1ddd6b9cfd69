"""Scores: metrics, selection on val, the protocols that tie them together, and the record of every number."""
