"""p2pctl: the client that drives a running p2pd."""
