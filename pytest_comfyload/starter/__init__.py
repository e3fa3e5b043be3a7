"""`comfyload init`: a first suite for a server, with bounds from a short measurement, and what it takes to run it."""
