"""What the Fisher stands on: sums of squared per-example gradients."""
