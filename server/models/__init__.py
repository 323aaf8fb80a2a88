"""Base models: from what others publish to a folder that every site copies."""
