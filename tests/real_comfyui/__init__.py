"""A real ComfyUI for tests: `build` installs it, `models` writes its weights, and `probe_nodes` add faults."""
