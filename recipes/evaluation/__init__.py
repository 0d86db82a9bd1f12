"""Run a checkpoint on annotated clips, and report how it did."""
