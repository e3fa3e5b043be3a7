"""Repositories, as the tests of history have them."""

from tests.history.conftest import repository

__all__ = ["repository"]
