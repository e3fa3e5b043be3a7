"""One load run, wired: from a Scenario and servers to a LoadResult. No pytest."""
