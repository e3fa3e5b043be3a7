"""Reports of measurements: in the terminal, as Markdown and as HTML."""
