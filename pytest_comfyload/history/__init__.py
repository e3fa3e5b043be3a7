"""The store of runs: what is kept of each run on disk, its provenance, its names, export and pruning."""
