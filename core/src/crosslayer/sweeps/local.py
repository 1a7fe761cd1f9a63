"""Points in processes of this machine: as many at once as cores and memory allow."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from crosslayer.errors import DependencyError
from crosslayer.machine import THREAD_VARIABLES, free_memory_bytes
from crosslayer.registry import Registry
from crosslayer.sweeps.work import Done, Task
from crosslayer.sweeps.worker import GRACE_S


@dataclass(eq=False)
class _Worker:
    """A process, what it works on, and the memory that it may hold."""

    process: subprocess.Popen[bytes]
    task: Task | None = None
    holds: int = 0
    since: float = field(default_factory=time.perf_counter)


class LocalExecutor:
    """jobs: points at once, at most. budget_bytes: of memory for all of them (default: what is free
    now); a point that needs more than that runs alone.
    """

    def __init__(self, jobs: int, budget_bytes: int | None = None) -> None:
        self.jobs = jobs
        self.budget_bytes = free_memory_bytes() if budget_bytes is None else budget_bytes

    def run(self, tasks: Sequence[Task], registry: Registry) -> Generator[Done, None, None]:
        """Each task's end as it comes. Closing the iterator interrupts what runs."""
        waiting = list(reversed(tasks))
        workers: list[_Worker] = []
        ended: queue.SimpleQueue[tuple[_Worker, Done | None]] = queue.SimpleQueue()
        try:
            while waiting or any(worker.task for worker in workers):
                while waiting and self._start(waiting[-1], workers, registry, ended):
                    waiting.pop()
                worker, done = ended.get()
                task, worker.task = worker.task, None
                if done is None:
                    if worker in workers:
                        workers.remove(worker)
                    if task is None:
                        continue  # it was idle, and was stopped or went by itself
                    done = _lost(worker, task)
                yield done
        finally:
            _stop(workers)

    def _start(
        self, task: Task, workers: list[_Worker], registry: Registry, ended: queue.SimpleQueue[Any]
    ) -> bool:
        """Give the task to a worker, if a core and memory are free for it."""
        busy = [worker for worker in workers if worker.task]
        if len(busy) >= self.jobs:
            return False
        idle = [worker for worker in workers if not worker.task]
        taken = sum(worker.holds for worker in busy) + task.need_bytes
        if busy and taken > self.budget_bytes:
            return False
        chosen = idle.pop() if idle else None
        for other in idle:  # what they keep loaded may be in the way
            if taken + other.holds > self.budget_bytes:
                workers.remove(other)
                _stop([other])
            else:
                taken += other.holds
        if chosen is None:
            chosen = _new_worker(task.threads, registry, ended)
            workers.append(chosen)
        chosen.task, chosen.holds, chosen.since = task, task.need_bytes, time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # its end is told by its reader
            _send(chosen, task)
        return True


def _new_worker(threads: int, registry: Registry, ended: queue.SimpleQueue[Any]) -> _Worker:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = os.environ | {"PYTHONPATH": paths}
    environment |= {name: str(threads) for name in THREAD_VARIABLES}
    # -P: what lies in the working directory is imported only if this process would import it
    command = [sys.executable, "-P", "-m", "crosslayer.sweeps.worker"]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise DependencyError(f"sweep: no process can be started: {error}") from error
    worker = _Worker(process)
    with contextlib.suppress(BrokenPipeError):  # its end is told by its reader
        _send(worker, registry)
    threading.Thread(target=_read, args=(worker, ended), daemon=True).start()
    return worker


def _send(worker: _Worker, message: Any) -> None:
    assert worker.process.stdin is not None
    pickle.dump(message, worker.process.stdin)
    worker.process.stdin.flush()


def _read(worker: _Worker, ended: queue.SimpleQueue[Any]) -> None:
    """Hands on what the worker answers, and None at its end."""
    assert worker.process.stdout is not None
    while True:
        try:
            done = pickle.load(worker.process.stdout)
        except Exception:  # its end, even in the middle of an answer
            ended.put((worker, None))
            return
        ended.put((worker, done))


def _lost(worker: _Worker, task: Task) -> Done:
    """A point whose process ended under it."""
    code = worker.process.wait()
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    more = ", as it does when memory runs out" if code == -signal.SIGKILL else ""
    where = f"{os.uname().nodename}:{worker.process.pid}"
    seconds = time.perf_counter() - worker.since
    return Done(task.id, f"its process ended {how}{more}", seconds=seconds, where=where)


def _stop(workers: Sequence[_Worker]) -> None:
    """Interrupt the workers, so that they clean up, and kill what is left of their groups."""
    for worker in workers:
        with contextlib.suppress(OSError):
            if worker.task is None:
                _send(worker, None)
            else:
                worker.process.send_signal(signal.SIGINT)
    until = time.monotonic() + GRACE_S
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, until - time.monotonic()))
        with contextlib.suppress(OSError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout):
            with contextlib.suppress(OSError):
                stream and stream.close()
