"""What load to apply: the workflow and its inputs, and when users send it. Pure."""
