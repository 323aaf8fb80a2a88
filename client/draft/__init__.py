"""A first codebook, for a person to complete: from a table of records or from what else there is."""
