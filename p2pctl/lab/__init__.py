"""`p2pctl lab`: six experiments with daemons of its own, and the tables of what they measured."""
