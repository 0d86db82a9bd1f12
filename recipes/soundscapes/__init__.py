"""Soundscapes with exact annotations, mixed from real recordings."""
