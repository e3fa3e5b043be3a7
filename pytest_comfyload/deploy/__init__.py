"""A deployment of ComfyUI: rendered from templates, and checked where it runs."""
