"""The sections of the report of searches, one module for each."""
