"""The one training loop of rgs, its data order, its checkpoints and its log."""
