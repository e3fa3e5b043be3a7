"""The report as HTML: pages that work from a folder or an attachment, and ask no other computer for anything."""
