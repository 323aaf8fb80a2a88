"""What travels between the coordinator and a site, and its form on the wire."""
