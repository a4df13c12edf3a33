"""Errors of architectures from scratch, and their ranking by shared weights."""
