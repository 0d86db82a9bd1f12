"""Data: real recordings, soundscapes mixed from them, and rows for training."""
