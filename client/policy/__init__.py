"""What a site allows a run: its limits, the signature on them, what became weaker, and their commands."""
