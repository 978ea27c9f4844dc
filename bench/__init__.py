"""How fast p2pd is: each figure beside a reference that is measured in the same run."""
