"""What the table of a study says, computed from that table and nothing else."""
