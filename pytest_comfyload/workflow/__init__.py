"""Workflows and the prompts built from them, by a graph and its classes in /object_info. No clock, no socket here."""
