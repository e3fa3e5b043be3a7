"""Shows what was measured: now in the terminal."""
