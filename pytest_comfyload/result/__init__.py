"""What came of the load: outcomes, distributions, the LoadResult, and checks on it. Pure."""
