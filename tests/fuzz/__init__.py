"""Fuzzing: whatever bytes and values arrive, only the package's own errors leave, soon, and nothing global changes.

`pytest tests/fuzz` takes some seconds. `FUZZ_EXAMPLES=20000 pytest tests/fuzz` tries so many inputs for each target;
`python -m tests.fuzz.with_atheris TARGET SECONDS` searches by coverage, where atheris is installed.
"""
