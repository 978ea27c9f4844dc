"""Layer 4: the services that drive the protocol machines, and the node made of them."""
