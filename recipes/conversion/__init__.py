"""From a backbone to a checkpoint with ticks, and checkpoints on disk."""
