"""Questions of a registry for the people who own it; they stay on the machine."""
