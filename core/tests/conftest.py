"""For a run of pytest by hand: no deadlines. A nox session loads its own profiles after this."""

from hypothesis import settings

settings.register_profile("by-hand", deadline=None)
settings.load_profile("by-hand")
