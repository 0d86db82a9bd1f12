"""The `timepro` command: its parser, subcommands and output."""
