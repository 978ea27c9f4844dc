"""Layer 3: how bytes reach the disk: the seam and its SQLite and in-memory sides."""
