"""Contract tests: what must be true of both the simulator and a real ComfyUI, written once."""
