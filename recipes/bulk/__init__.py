"""Annotate very many recordings, by processes on this machine or by a Ray cluster."""
