"""Check a checkpoint and upload it to the Hub."""
