"""Convert backbones to checkpoints with ticks; load, save and merge checkpoints."""
