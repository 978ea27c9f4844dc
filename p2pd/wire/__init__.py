"""Layer 1: what travels on a connection, as bytes. Pure: no I/O, no clock."""
