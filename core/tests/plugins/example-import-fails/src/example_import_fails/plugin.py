"""Raises while it is imported, after printing what would spoil JSON on stdout."""

print("half loaded")
raise RuntimeError("a library of mine is broken\nsecond line")
