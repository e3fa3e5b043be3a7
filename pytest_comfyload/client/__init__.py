"""The only HTTP and WebSocket clients of the project: one user of a ComfyUI server, over real sockets."""
