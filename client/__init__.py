"""What runs at a hospital: its registry, its training, its limits."""
