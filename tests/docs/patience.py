"""A pytest plugin for the commands of the pages: a stalling machine does not make their runs invalid.

The pages do not show how fast this machine is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from pytest_comfyload.scenario.arguments import ARGUMENTS

__all__ = ["pytest_configure"]


def pytest_configure() -> None:
    arguments = cast("dict[str, Any]", ARGUMENTS)
    arguments["max_send_lag"] = replace(ARGUMENTS["max_send_lag"], parse=lambda _value, _name: 30.0)
