"""The machine a run happens on: how many threads it may use, and the facts that go beside measured
numbers.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from crosslayer.errors import InputError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def allowed_cores() -> int:
    """Cores this process may use: its affinity, and its control group's share rounded up; at least
    1.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def checked_threads(threads: int | None) -> int:
    """That many threads, by default one a core. Errors: InputError for fewer than 1, or more than
    the cores that this process may use.
    """
    cores = allowed_cores()
    if threads is not None and not 1 <= threads <= cores:
        raise InputError(f"threads = {threads}, but this process may use 1 to {cores}")
    return threads or cores


def limit_threads(threads: int) -> None:
    """Numerical libraries imported from now on take this many threads; so does torch if it is here
    already.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def machine_facts() -> dict[str, Any]:
    """CPU, cores, memory in bytes, operating system, Python."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "cores_allowed": allowed_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def free_memory_bytes() -> int:
    """Memory that a new process can have: what the system has available, and what is left of the
    control group's limit. 1 GiB where neither says.
    """
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            found.append(int(limit) - used + int(stats.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return max(0, min(found, default=1 << 30))
