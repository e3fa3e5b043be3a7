"""Detection of out-of-memory failures of ComfyUI and its backends, in the exception of a node or only in the log."""

from __future__ import annotations

import re

__all__ = ["is_oom", "is_silent_retry"]

# Python and numpy (MemoryError, _ArrayMemoryError), torch (torch.cuda.OutOfMemoryError), cupy, TensorFlow.
_OOM_TYPE = re.compile(r"(?:^|[._])\w*(?:MemoryError|OutOfMemory(?:Error)?|ResourceExhaustedError)$")
# Other messages of the backends, most of them in a RuntimeError.
_OOM_MESSAGE = re.compile(
    "|".join(
        (
            r"^\W*out of memory\b",
            r"(?:\b(?:CUDA|HIP|MPS|XPU|NPU|GPU|device|backend|error)|_EXHAUSTED|\(\d+\))[\s:]*(?:ran )?out of memory",
            r"\bran out of memory on your GPU",
            r"\ballocation on device\b",
            r"\(out of memory\)",
            # cuBLAS, cuDNN, cuSOLVER, hipBLAS; CUDA's, HIP's and SYCL's own codes.
            r"(?:CU|HIP|ROC)\w*_(?:ALLOC|ALLOCATION)_FAILED",
            r"(?:cuda|hip|miopen)\w*(?:MemoryAllocation|OutOfMemory|AllocFailed)",
            r"(?:CUDA|HIP|CL|ZE|UR|PI)_\w*OUT_OF_(?:\w+_)?MEMORY",
            r"(?:UR|PI|CL)_\w*(?:OUT_OF_RESOURCES|MEM_OBJECT_ALLOCATION_FAILURE)",
            # Metal.
            r"kIOGPUCommandBufferCallbackErrorOutOfMemory",
            r"\binvalid buffer size: [\d.]+ [kMGT]i?B",
            # DirectML, and the messages of Windows about RAM and its paging file.
            r"not enough GPU video memory",
            r"not enough memory resources are available",
            r"\b8007000E\b",
            r"paging file is too small",
            r"\b(?:WinError|os error) 1455\b",
            # The CPU: torch, C++, the system, numpy, OpenCV.
            r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
            r"\bcannot allocate memory\b",
            r"\bbad[_ ]alloc(?:ation)?\b",
            r"\bunable to allocate [\d.]+ [kMGT]?i?B\b",
            r"\bfailed to allocate \d+ bytes",
            # ONNX Runtime, TensorFlow.
            r"failed to allocate memory for requested buffer",
            r"\bavailable memory of \d+ is smaller than requested bytes",
            r"\bOOM when allocating",
        )
    ),
    re.IGNORECASE,
)
# Characters that are searched; a server may send up to 64 MiB.
_LONGEST = 16 * 1024
_RETRY = re.compile(r"out of memory.*\b(retry|again|increas)|\btiled\b", re.IGNORECASE | re.DOTALL)
_FAILURE = re.compile(r"Traceback|Exception|Error\b")


def is_oom(exception_type: str, message: str) -> bool:
    """Return whether the exception of a node means that it ran out of memory, on the GPU or elsewhere."""
    kind, words = exception_type[:_LONGEST], message[:_LONGEST]
    return _OOM_TYPE.search(kind) is not None or _OOM_MESSAGE.search(words) is not None


def is_silent_retry(message: str) -> bool:
    """Return whether a line of the server's log reports a node that ran out of memory and continued in another way."""
    return _RETRY.search(message) is not None and _FAILURE.search(message) is None
