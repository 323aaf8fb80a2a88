"""What `python -m client check` looks at beyond the files: the registry in counts, the prompts, the memory."""
