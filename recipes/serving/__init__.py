"""A checkpoint served by vLLM: its answers held to what can be read, and the client that asks for them."""
