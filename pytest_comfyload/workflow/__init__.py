"""What is sent: a graph and what /object_info says of its classes become prompts. No clock and no socket here."""
