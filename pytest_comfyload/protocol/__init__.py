"""ComfyUI's language without I/O: frames and bodies become frozen values, one prompt's events become a Timeline."""
