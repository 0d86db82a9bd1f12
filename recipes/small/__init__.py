"""How the embedded checkpoint `timepro-small` is made, tested and drawn."""
