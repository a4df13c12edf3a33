"""The parts of a search: its state, its sequence of calls, training and evaluation."""
