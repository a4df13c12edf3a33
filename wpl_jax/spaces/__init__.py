"""The search spaces, one module each."""
