"""`comfyload init`: a first suite for a server, with bounds from a short measurement and the files to run it."""
