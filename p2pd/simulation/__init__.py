"""Layer 6: many nodes in one process, on the in-memory network, in virtual time."""
