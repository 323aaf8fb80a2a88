"""What is claimed about exactness and speed, as commands: progress on stderr, one JSON object as the last line of stdout."""
