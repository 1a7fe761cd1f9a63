"""Sweeps: one pipeline at many points of some of its values.

`points` says which, `checking` validates them all, `engine` runs them through an executor and
records each as it finishes, `report` shows them together.
"""
