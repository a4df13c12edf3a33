"""Devices and processes that share the work, and functions compiled for them."""
