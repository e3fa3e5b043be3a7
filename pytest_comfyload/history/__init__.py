"""The store of runs: what is kept of each on disk, where it comes from, how it is named, exported and pruned."""
