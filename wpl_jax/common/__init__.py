"""What all rooms use: trees of arrays, checks of arguments and of settings."""
