"""Decoding with a policy: static caches, slots, graphs, the bits that must not differ, accuracy on questions."""
