"""Recipes: build, convert, train and score TimePro checkpoints, and the `timepro` command."""

from pathlib import Path

# The small checkpoint that ships with the package.
DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "timepro-small"
