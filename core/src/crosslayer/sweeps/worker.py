"""A process of the local executor: reads tasks from its standard input, writes what became of them.

It has a process group of its own, so Ctrl-C reaches only the sweep itself, which then ends its
workers; and it ends by itself when the sweep is gone.
"""

from __future__ import annotations

import _thread
import os
import pickle
import queue
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

GRACE_S = 3.0  # between an interruption, which cleans up, and the end


def main() -> None:
    """Run tasks until there are no more. The first message is the registry."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" may have it ignored
    tasks = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever a component prints is not an answer
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks, got), daemon=True).start()
    try:
        registry = got.get()
        while registry is not None and (task := got.get()) is not None:
            from crosslayer.sweeps.work import do

            pickle.dump(do(task, registry), answers)
            answers.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def _read(tasks: BinaryIO, got: queue.SimpleQueue[Any]) -> None:
    """Hands on what comes in; at its end, None to a worker that waits, an end to one that works."""
    while True:
        try:
            message = pickle.load(tasks)
        except (EOFError, OSError):
            break
        got.put(message)
        if message is None:
            return
    got.put(None)
    time.sleep(0.2)
    _thread.interrupt_main()
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
