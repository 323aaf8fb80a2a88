"""Many sites on one machine: partition, demo and study."""
