"""The HTML report: pages that work from a folder or an e-mail attachment, and load nothing from other computers."""
