"""What talks to the coordinator: node and resident process, what was sent and received, the way there, its hours."""
