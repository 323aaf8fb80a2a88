"""What a hospital looks at: where its site stands, what left, was spent and may be asked; on this machine alone."""
