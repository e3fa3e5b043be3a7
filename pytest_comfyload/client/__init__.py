"""The only HTTP and WebSocket clients: one user of a ComfyUI server, over real sockets."""
