"""A ComfyUI-compatible front end to several workers: prompts wait in Redis, and a free worker gets the next one."""
