"""Fisher diagonals of this library beside those of others."""
