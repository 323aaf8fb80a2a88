"""What the coordinator hands out: certificates, kits, the roster, the federation's files and deployment."""
