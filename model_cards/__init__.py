"""A card a backbone: what it is, what it scored, how to use it."""
