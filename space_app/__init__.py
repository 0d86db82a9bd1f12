"""Pictures and the demonstration page."""
