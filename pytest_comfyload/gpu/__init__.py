"""GPU samplers: NVML on this machine, a Prometheus endpoint anywhere, and ComfyUI's own report."""
