"""An OMOP Common Data Model (5.3, 5.4) in PostgreSQL as a registry with one row a visit."""
