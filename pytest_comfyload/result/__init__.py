"""Results of a load: outcomes, distributions, `LoadResult`, and checks on it. Pure code, without I/O."""
