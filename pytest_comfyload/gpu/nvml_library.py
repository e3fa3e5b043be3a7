"""NVIDIA's management library: opened and closed in balance, asked without exceptions, its refusals in sentences."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from pytest_comfyload.errors import UsageError

__all__ = ["GpuLost", "Question", "opened", "raise_if_lost", "why"]

# By the names of the binding's exceptions.
_REFUSALS = {
    "NVMLError_LibraryNotFound": (
        "libnvidia-ml.so.1 is not found, so this machine has no NVIDIA driver; "
        "install it, or start the container with its GPUs (docker run --gpus all)"
    ),
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is installed but not loaded; nvidia-smi or a reboot brings it up",
    "NVMLError_LibRmVersionMismatch": (
        "the NVIDIA library is of another version than the driver that runs; reboot, or restart the container"
    ),
    "NVMLError_NoPermission": "this user may not use the NVIDIA driver; give it the right to read /dev/nvidia*",
    "NVMLError_FunctionNotFound": "the NVIDIA driver is too old to be asked; update it",
}
_LOST = {"NVMLError_GpuIsLost", "NVMLError_ResetRequired", "NVMLError_Uninitialized"}


class GpuLost(Exception):
    """A GPU no longer answers, and will not before somebody resets it; the message is NVML's reason."""


@contextlib.contextmanager
def opened() -> Iterator[ModuleType]:
    """The binding, initialised; NVML counts who has it open, so many may at once. Raises: UsageError."""
    binding = _binding()
    try:
        binding.nvmlInit()
        try:
            yield binding
        finally:
            with contextlib.suppress(binding.NVMLError):
                binding.nvmlShutdown()
    except binding.NVMLError as error:
        raise UsageError(f"NVML cannot be asked: {_refusal(error)}") from None


def why(error: Exception) -> str:
    """NVML's own word for an error: `GPU is lost`."""
    return str(error).rstrip(".")


def raise_if_lost(error: Exception) -> None:
    """Raises: GpuLost, for an error that speaks of the GPU and not of the call."""
    if type(error).__name__ in _LOST:
        raise GpuLost(why(error)) from None


class Question:
    """One thing to ask a GPU. Of several calls for it the first that answers is kept for good.

    Calls are the binding's functions by name, with their arguments after the handle: a driver, a card or a binding
    may lack any of them. `unknown` is true where the last answer was NVML's `Unknown Error`.
    """

    def __init__(self, binding: ModuleType, handle: object, *calls: tuple[Any, ...]) -> None:
        self._error: type[Exception] = binding.NVMLError
        self._calls: list[Callable[[], Any]] = [
            _call(function, handle, arguments)
            for name, *arguments in calls
            if (function := getattr(binding, name, None)) is not None
        ]
        self.unknown = False

    def __call__(self) -> Any:
        """None where the GPU does not tell. Raises: GpuLost."""
        self.unknown = False
        for call in self._calls:
            try:
                answer = call()
            except self._error as error:
                raise_if_lost(error)
                self.unknown |= type(error).__name__ == "NVMLError_Unknown"
            else:
                self._calls = [call]
                return answer
        return None


def _call(function: Callable[..., Any], handle: object, arguments: list[Any]) -> Callable[[], Any]:
    return lambda: function(handle, *arguments)


def _binding() -> ModuleType:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise UsageError("NVML cannot be asked: its Python binding is missing; pip install nvidia-ml-py") from None


def _refusal(error: Exception) -> str:
    return _REFUSALS.get(type(error).__name__, f"{why(error)}; nvidia-smi may say more")
