"""GloRoNet: a classifier with its Lipschitz bound, iterates and certificates."""
