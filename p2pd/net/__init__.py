"""Layer 3: how bytes reach other hosts: the seam and its real and in-memory sides."""
