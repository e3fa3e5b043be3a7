"""Builds a real ComfyUI for tests: `build` installs it, `models` gives it weights, `probe_nodes` give it faults."""
