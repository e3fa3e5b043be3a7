"""Runs against runs: which earlier runs a commit is held against, what came of it, and what may have caused it."""
