"""Layer 5: the control socket, seen from the daemon and from its client."""
