"""Protections against forgetting."""
