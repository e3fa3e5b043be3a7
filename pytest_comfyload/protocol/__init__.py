"""ComfyUI's protocol without I/O: frames and bodies become frozen values, a prompt's events become a Timeline."""
