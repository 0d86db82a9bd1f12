"""Metrics as `evaluate` modules, each in a folder with its card."""
