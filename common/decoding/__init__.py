"""Decoding with a policy: caches, groups that share a prompt, the bits that must not differ, accuracy on questions."""
