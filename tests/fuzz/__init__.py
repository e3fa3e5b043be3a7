"""Fuzzing: for any input, only the package's own errors are raised, in bounded time, and global state is unchanged.

`pytest tests/fuzz` takes a few seconds. `FUZZ_EXAMPLES=20000 pytest tests/fuzz` tries 20,000 inputs per target. With
atheris installed, `python -m tests.fuzz.with_atheris TARGET SECONDS` runs a coverage-guided search.
"""
