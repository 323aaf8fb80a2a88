"""A study: the arms of a comparison over seeds, every answer of theirs in one table, and what is computed from it."""
