"""Metrics: numbers and how certain they are, what may be concluded from them, and how runs are compared. Pure code."""
