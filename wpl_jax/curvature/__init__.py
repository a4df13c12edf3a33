"""What the penalty and the Fisher stand on: its state, sums of squared gradients."""
