"""Tests of the simulator, the conformance to recorded ComfyUI servers among them."""
