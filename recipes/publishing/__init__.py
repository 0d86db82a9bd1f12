"""Check checkpoints and upload them to the Hub."""
