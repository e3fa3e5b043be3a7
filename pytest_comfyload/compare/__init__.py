"""Comparison of runs: which earlier runs a commit is compared with, the outcome, and what may have caused it."""
