"""Tests of the simulator, including its conformance to recorded ComfyUI servers."""
