"""For a run of pytest by hand: no deadlines. A nox session loads its own profiles after this.

A shell's background job ignores SIGINT, and so does all that it starts; tests that interrupt need
it back.
"""

import signal

from hypothesis import settings

settings.register_profile("by-hand", deadline=None)
settings.load_profile("by-hand")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
