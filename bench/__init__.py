"""What is claimed about exactness and speed, as commands: progress on stderr, then one line of JSON on stdout."""
