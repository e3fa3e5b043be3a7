"""Capacity of a service: measured service times, a queue model, and a search that confirms the estimate. Pure."""
