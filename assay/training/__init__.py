"""training: the parts of `assay.train`: settings, one coder in training, optimisers, the controller of L0, revival, checkpoints."""
