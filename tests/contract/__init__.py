"""What must hold on the simulator and on a real ComfyUI alike, written once."""
