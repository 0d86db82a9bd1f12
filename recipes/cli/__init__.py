"""The `timepro` command: its parser, its commands, what they print and write."""
