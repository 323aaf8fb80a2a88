"""Code with a guard taken out, for the checks of privacy to catch."""
