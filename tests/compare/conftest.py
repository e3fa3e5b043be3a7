"""Git repositories, from the history tests."""

from tests.history.conftest import repository

__all__ = ["repository"]
