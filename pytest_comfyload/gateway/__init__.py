"""One ComfyUI-compatible server before many: prompts wait in Redis, and a free worker gets the next one."""
