"""The coordinator's processes and what they know: SuperLink and superexec, Flower's control API and state."""
