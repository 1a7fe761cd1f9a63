"""Simulators that ship with the core."""
