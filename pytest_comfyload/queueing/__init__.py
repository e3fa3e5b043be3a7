"""First come, first served: the recursion, its closed forms, and the replay of measured service times. Pure."""
