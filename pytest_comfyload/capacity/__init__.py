"""How much load a service bears: measured service times, a queue model, and a search that confirms it. Pure."""
