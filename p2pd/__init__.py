"""p2pd: a peer-to-peer node that runs as a systemd service."""

__version__ = "0.1.0"
