"""Trained models: as functions, as files, and as programs without this library."""
