"""Layer 2: the protocol machines. Pure: they are given `now` and `rng`."""
