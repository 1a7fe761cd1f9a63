"""Points on the nodes of a Ray cluster: one with an address, or one of this machine's own.

A node runs a point in a temporary folder and sends the run directory back as an archive, so nothing
but the step cache profits from a shared file system. What a pipeline file names by path must be
readable on every node.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosslayer.errors import DependencyError, InputError
from crosslayer.machine import allowed_cores
from crosslayer.registry import Registry
from crosslayer.rundir import run_directory
from crosslayer.sweeps.work import Done, Task, do

OBJECT_STORE_BYTES = 100 << 20  # of a cluster of our own: archives of a few runs at once
LOOPBACK = ("127.", "localhost")
PASSED = ("CROSSLAYER_CACHE_DIR", "CROSSLAYER_OFFLINE", "CROSSLAYER_STRICT")


class RayExecutor:
    """address: of the cluster's head, as `ray start` prints it; None: a cluster on 127.0.0.1 that
    is started for the sweep and stopped after it. jobs: points at once, at most (None: as many as
    the cluster has cores for).
    """

    def __init__(self, address: str | None = None, jobs: int | None = None) -> None:
        if address is None or address.startswith(LOOPBACK):
            # Ray, when it is imported, decides whether it takes 127.0.0.1 for what it says
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                "sweep: the executor 'ray' needs Ray, which is not installed; install the core with"
                " its extra 'ray'"
            ) from error
        self.address, self.jobs = address, jobs

    def run(self, tasks: Sequence[Task], registry: Registry) -> Generator[Done, None, None]:
        """Each task's end as it comes. Closing the iterator cancels what runs."""
        with _connected(self.address) as ray:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            widest = int(max(node["Resources"].get("CPU", 0.0) for node in nodes))
            if tasks[0].threads > widest:  # no node would ever take a point
                raise InputError(
                    f"sweep: a point takes {tasks[0].threads} threads, but no node of the cluster"
                    f" has more than {widest} cores"
                )
            memory = max(node["Resources"].get("memory", 0.0) for node in nodes)
            cores = int(ray.cluster_resources().get("CPU", 1))
            at_once = self.jobs or max(1, 2 * cores // tasks[0].threads)
            environment = {name: os.environ[name] for name in PASSED if name in os.environ}
            paths = [os.path.abspath(path) for path in sys.path]
            shared = ray.put(registry)
            waiting = list(reversed(tasks))
            running: dict[Any, Task] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < at_once:
                        task = waiting.pop()
                        remote = ray.remote(_on_node).options(
                            num_cpus=task.threads,
                            memory=min(task.need_bytes, int(memory)),
                            max_retries=0,
                            scheduling_strategy="SPREAD",
                        )
                        running[remote.remote(task, shared, environment, paths)] = task
                    (ready, *_), _ = ray.wait(list(running), num_returns=1)
                    task = running.pop(ready)
                    yield _received(ray, ready, task)
            finally:
                for reference in running:
                    with contextlib.suppress(Exception):
                        ray.cancel(reference, force=True)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; disconnected or stopped afterwards unless it was there before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # a driver's message that it will change this by itself one day
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own: dict[str, Any] = {
            "address": "local",
            "num_cpus": allowed_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }
        settings = own if address is None else {"address": address}
        try:
            ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            where = f"the cluster at {address}" if address else "a local cluster"
            reason = str(error).strip().split("\n")[0]
            raise DependencyError(f"sweep: Ray cannot use {where}: {reason}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _on_node(
    task: Task, registry: Registry, environment: dict[str, str], paths: Sequence[str]
) -> Done:
    """What a node does: run the point, pack what it wrote. paths: where the sweep finds modules;
    those that this node has come after its own.
    """
    import ray

    os.environ.update(environment)
    sys.path += [path for path in paths if path not in sys.path and os.path.exists(path)]
    with tempfile.TemporaryDirectory(prefix="crosslayer-point-") as folder:
        done = do(task, registry, Path(folder))
        node = ray.get_runtime_context().get_node_id()
        return replace(done, where=f"{done.where} {node}", files=_packed(Path(folder)))


def _packed(folder: Path) -> bytes:
    """The files below a folder as a zip archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder).as_posix())
    return written.getvalue()


def _received(ray: Any, reference: Any, task: Task) -> Done:
    """The point's end, its run directory in its place."""
    try:
        done: Done = ray.get(reference)
    except Exception as error:  # the node or its process is gone
        reason = str(error).strip().split("\n")[0]
        return Done(task.id, f"its process ended: {type(error).__name__}: {reason}")
    if done.files is not None:
        name = task.place.name if not done.error else f"{task.place.name}.failed"
        with (
            zipfile.ZipFile(io.BytesIO(done.files)) as archive,
            run_directory(task.place.with_name(name)) as folder,
        ):
            for member in archive.namelist():
                inside = Path(member).parts[1:]
                target = folder.joinpath(*inside)
                if ".." in inside or not inside:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
    return replace(done, files=None)
