"""Metrics as modules of `evaluate`, each in a folder with its card."""
