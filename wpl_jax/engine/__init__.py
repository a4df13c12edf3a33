"""The inside of a search: its state, its sequence of calls, and what each does."""
