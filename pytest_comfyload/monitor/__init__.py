"""Monitoring of running servers from outside: counters for Prometheus, and a live view."""
