"""Accelerator models that ship with the core."""
