"""Data: real recordings, soundscapes mixed from them, annotations of other data sets, and rows for training."""
