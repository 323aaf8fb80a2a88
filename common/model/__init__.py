"""The model that is trained: base, adapter and optimizer, 4-bit weights, and the making of the embedded one."""
