"""What is kept on disk: the outcomes of a run, as they end."""
