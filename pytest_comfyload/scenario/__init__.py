"""Description of a load: the workflow and its inputs, and when users send it. Pure."""
