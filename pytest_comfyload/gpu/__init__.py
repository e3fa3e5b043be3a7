"""Samplers of GPUs: NVML on this machine, a Prometheus endpoint on any, and what ComfyUI itself says."""
