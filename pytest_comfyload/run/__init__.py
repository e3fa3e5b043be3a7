"""A complete load run, from a Scenario and servers to a LoadResult. Independent of pytest."""
