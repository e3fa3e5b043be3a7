"""Walks the users through a scenario: warm-up, measured window, drain; every prompt ends in one outcome."""
