"""Out of memory: the errors of each backend, retries that appear in the log only, and models that are reloaded."""

from __future__ import annotations

import pytest

from pytest_comfyload.protocol.oom import is_oom, is_silent_retry

OOM = [
    (
        "torch.OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 24 GiB",
    ),
    ("torch.cuda.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory. (out of memory)"),
    ("torch.OutOfMemoryError", "Allocation on device "),
    ("RuntimeError", "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ("torch.AcceleratorError", "CUDA error: out of memory"),
    ("RuntimeError", "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/generic/THCStorage.cu:58"),
    ("RuntimeError", "CUDA driver error: out of memory"),
    ("cupy.cuda.memory.OutOfMemoryError", "Out of memory allocating 1,024 bytes"),
    ("cupy_backends.cuda.api.runtime.CUDARuntimeError", "cudaErrorMemoryAllocation: out of memory"),
    ("pycuda._driver.MemoryError", "cuMemAlloc failed: out of memory"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ("RuntimeError", "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ("RuntimeError", "HIP out of memory. Tried to allocate 2.00 GiB."),
    ("RuntimeError", "HIP error: out of memory"),
    ("RuntimeError", "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    ("RuntimeError", "MIOpen Error: miopenStatusAllocFailed"),
    (
        "RuntimeError",
        "MPS backend out of memory (MPS allocated: 8.72 GB, max allowed: 9.07 GB).",
    ),
    ("RuntimeError", "Invalid buffer size: 9.54 GiB"),
    ("RuntimeError", "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
    (
        "RuntimeError",
        "Could not allocate tensor with 42467328 bytes. There is not enough GPU video memory available!",
    ),
    ("RuntimeError", "Not enough memory resources are available to complete this operation."),
    ("RuntimeError", "[ONNXRuntimeError] : 1 : FAIL : DmlExecutionProvider: 8007000E"),
    ("RuntimeError", "XPU out of memory. Tried to allocate 4.50 GiB."),
    ("RuntimeError", "Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    ("RuntimeError", "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    (
        "RuntimeError",
        "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)",
    ),
    (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 29491200 bytes. Error code 12 (Cannot allocate memory)",
    ),
    (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried",
    ),
    ("MemoryError", ""),
    ("MemoryError", "bad allocation"),
    (
        "numpy.core._exceptions._ArrayMemoryError",
        "Unable to allocate 5.93 GiB for an array with shape (1, 8192)",
    ),
    ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 24.0 B for an array"),
    ("OSError", "[Errno 12] Cannot allocate memory"),
    ("safetensors_rust.SafetensorError", "Error while mapping: Cannot allocate memory (os error 12)"),
    ("RuntimeError", "std::bad_alloc"),
    ("cv2.error", "OpenCV(4.9.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 805306368 bytes"),
    (
        "onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException",
        "[ONNXRuntimeError] : 6 RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal(size_t) Failed to allocate memory "
        "for requested buffer of size 268435456",
    ),
    (
        "onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException",
        "bfc_arena.cc:376 Available memory of 1048576 is smaller than requested bytes of 2097152",
    ),
    ("OSError", "The paging file is too small for this operation to complete. (os error 1455)"),
    ("OSError", "[WinError 1455] Die Auslagerungsdatei ist zu klein, um diesen Vorgang durchzuführen"),
    ("tensorflow.python.framework.errors_impl.ResourceExhaustedError", "OOM when allocating tensor with shape[1,64]"),
    (
        "jaxlib.xla_extension.XlaRuntimeError",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
    ),
    ("Exception", "Generation failed: CUDA out of memory. Tried to allocate 2.00 GiB"),
]


OTHER = [
    ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
    (
        "triton.runtime.errors.OutOfResources",
        "out of resource: shared memory, Required: 106496, limit: 101376",
    ),
    ("ModuleNotFoundError", "No module named 'memory_profiler'"),
    ("NotImplementedError", "No operator found for `memory_efficient_attention_forward` with inputs"),
    ("RuntimeError", "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned: pin_memory"),
    ("ValueError", "memory_limit must be positive"),
    ("KeyError", "'memory'"),
    ("ValueError", "the style 'a man running out of memory lane' does not exist"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ("RuntimeError", "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (77x2048 and 768x320)"),
    ("torch.AcceleratorError", "CUDA error: unspecified launch failure"),
    ("OSError", "[Errno 28] No space left on device"),
    ("RuntimeError", "unable to mmap 1024 bytes from file <model.safetensors>: Permission denied (13)"),
    ("requests.exceptions.HTTPError", "429 Client Error: resources exhausted for url"),
    ("OSError", "[WinError 145] The directory is not empty"),
    ("RuntimeError", "device allocation: no such device"),
    ("custom.MemoryErrors", "two notes were not remembered"),
    ("Exception", "Not enough credits; memory add-on needed"),
]


@pytest.mark.parametrize(("exception_type", "message"), OOM)
def test_every_backend_says_in_its_own_way_that_memory_is_out(exception_type: str, message: str) -> None:
    assert is_oom(exception_type, message)


@pytest.mark.parametrize(("exception_type", "message"), OTHER)
def test_other_errors_that_speak_of_memory_are_none(exception_type: str, message: str) -> None:
    assert not is_oom(exception_type, message)


@pytest.mark.parametrize(
    "line",
    [
        "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.\n",
        "out of memory error, emptying cache and trying again\n",
        "out of memory error, increasing steps and trying again 8\n",
    ],
)
def test_retries(line: str) -> None:
    assert is_silent_retry(line)


@pytest.mark.parametrize(
    "line",
    [
        "Prompt executed in 1.02 seconds\n",
        "Requested to load AutoencoderKL\n",
        "!!! Exception during processing !!! CUDA out of memory. Tried to allocate 20.00 GiB, try again\n",
        "Traceback (most recent call last):\n  tiled\ntorch.OutOfMemoryError: CUDA out of memory.\n",
        "Got an OOM, unloading all loaded models.\n",
    ],
)
def test_what_is_no_retry(line: str) -> None:
    assert not is_silent_retry(line)
