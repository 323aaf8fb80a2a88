"""REDCap projects: the data dictionary as a codebook to review, the raw export as one row a record."""
