"""Measurements, run by name: `pytest -s tests/benchmarks/bench_memory.py`. Their figures go into messages, not asserts
on time.
"""
