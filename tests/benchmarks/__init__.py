"""Benchmarks, run by name: `pytest -s tests/benchmarks/bench_memory.py`. They print their times instead of asserting
them.
"""
