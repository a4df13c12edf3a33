"""The modes of a search's job, one module for each."""
