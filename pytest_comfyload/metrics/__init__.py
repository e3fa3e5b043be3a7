"""What a number is: what it stands on, what may be claimed of it, and how figures of runs are compared. Pure."""
