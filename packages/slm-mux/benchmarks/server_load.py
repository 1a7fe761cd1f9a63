"""The endpoint under load and the overhead of a request, through the official client.

`python benchmarks/server_load.py [--clients 50]`. Upstreams are a process of their own on this
machine: two that answer after 1 and 2 s, and one each that hangs, fails (500), sends garbage and
half-closes in the body. The clients, the server and the upstreams are three processes. Printed:
latency (the slowest call that is needed takes 2 s), whether each answer is that of the serial run,
the server's CPU time for a crowd and how long it waited for a CPU, what overload gets, and the
overhead per request of one member asked once against asking that upstream directly.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests"
DEADLINE_S = 60.0
POOL = """
k = 1
early_stop = "{early}"
deadline_s = {deadline}
[pools]
direct = ["plain"]
"""
MEMBERS = {
    "quick": (0.8, "wait-echo 1.0"),
    "slow": (0.9, "wait-echo 2.0"),
    "hang": (0.5, "hang"),
    "fail": (0.4, "fail"),
    "garbage": (0.3, "garbage"),
    "half": (0.2, "half-close"),
    "plain": (0.1, "echo"),
}
FAULTY = ["quick", "slow", "hang", "fail", "garbage", "half"]
NO_HANG = [name for name in FAULTY if name != "hang"]


def main() -> None:
    """Every figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3, help="crowds of each size")
    parser.add_argument("--requests", type=int, default=100, help="for the overhead")
    asked = parser.parse_args()
    print(f"load average of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    columns = ["", "clients", "answered", "as one by one", "p50", "p95"]
    columns += ["server: CPU", "server waits for a CPU", "clients: CPU"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * 9 + "|")
    with upstream() as up:
        with served(up, "lossless", 64) as at:
            asyncio.run(load(at[0], 2, 2))  # what is imported on first use is no latency
            serial = asyncio.run(load(at[0], asked.clients // 10, 1))
            for clients in sorted({1, 10, 25, asked.clients}):
                report("early stop", at, clients, asked.repeats, serial)
        with served(up, "never", 64) as at:
            asyncio.run(load(at[0], 2, 2, NO_HANG))
            name = "no early stop, nobody hangs"
            report(name, at, asked.clients, asked.repeats, serial, NO_HANG)
        with served(up, "lossless", 16) as at:
            crowd = asyncio.run(load(at[0], asked.clients, asked.clients))
            statuses = [one["status"] for one in crowd]
            told = ", ".join(f"{statuses.count(s)} x {s}" for s in sorted(set(statuses)))
            refused = [one["seconds"] for one in crowd if one["status"] == 429]
            print(f"16 at most: {told}; 429 after {max(refused, default=0):.2f} s at most")
            spent = cpu_of(at[1])[0]
            direct, through = asyncio.run(overhead(up, at[0], asked.requests))
            spent = (cpu_of(at[1])[0] - spent) / asked.requests
    print(
        f"one call, one at a time, medians of {asked.requests}: direct {direct * 1e3:.1f} ms,"
        f" through slm-mux {through * 1e3:.1f} ms, overhead {(through - direct) * 1e3:.1f} ms;"
        f" CPU of the server {spent * 1e3:.1f} ms a request"
    )


def report(
    name: str, at: tuple[str, int], clients: int, repeats: int, serial: list[dict[str, Any]],
    members: list[str] | None = None,
) -> None:  # fmt: skip
    """Latency and answers of crowds: of the one with the lowest median, as the machine's other work
    only adds; of all crowds, who was answered and how.
    """
    url, pid = at
    assert all(one["answer"] == one["wanted"] for one in serial)
    best: tuple[float, str] | None = None
    answered = right = 0
    for _ in range(repeats):
        before, own = cpu_of(pid), time.process_time()
        crowd = asyncio.run(load(url, clients, clients, members or FAULTY))
        spent, own = np.subtract(cpu_of(pid), before), time.process_time() - own
        good = [one for one in crowd if one["status"] == 200]
        answered += len(good)
        right += sum(one["answer"] == one["wanted"] for one in good)
        times = sorted(one["seconds"] for one in good) or [float("nan")]
        middle = statistics.median(times)
        told = f"{middle:.2f} s | {times[math.ceil(0.95 * len(times)) - 1]:.2f} s"
        if best is None or middle < best[0]:
            best = middle, f"{told} | {spent[0]:.2f} s | {spent[1]:.2f} s | {own:.2f} s"
    assert best is not None
    print(f"| {name} | {clients} | {answered} of {clients * repeats} | {right} | {best[1]} |",
          flush=True)  # fmt: skip


def cpu_of(pid: int) -> tuple[float, float]:
    """Seconds that a process ran, and that it could have run and waited for a CPU; from Linux."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    told = [(each / "schedstat").read_text("ascii").split() for each in threads]
    return sum(int(one[0]) for one in told) / 1e9, sum(int(one[1]) for one in told) / 1e9


async def load(
    url: str, requests: int, at_once: int, members: list[str] = FAULTY
) -> list[dict[str, Any]]:
    """Each request asks for its own number."""
    import openai

    slots = asyncio.Semaphore(at_once)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(i: int) -> dict[str, Any]:
            async with slots:
                start = time.perf_counter()
                try:
                    made = await client.chat.completions.create(
                        model="slm-mux",
                        messages=[{"role": "user", "content": f"say {i}"}],
                        extra_body={"slm_mux": {"models": members}},
                    )
                    told = {
                        "status": 200,
                        "answer": (made.model_extra or {})["x_slm_mux"]["answer"],
                    }
                except openai.APIStatusError as error:
                    told = {"status": error.status_code, "answer": None}
                return told | {"wanted": str(i), "seconds": time.perf_counter() - start}

        return list(await asyncio.gather(*map(one, range(requests))))


async def overhead(up: str, url: str, requests: int) -> tuple[float, float]:
    """Median seconds (direct, through slm-mux), the two in turn."""
    import openai

    direct = openai.AsyncOpenAI(base_url=up, api_key="none", max_retries=0)
    through = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    times: dict[str, list[float]] = {"direct": [], "through": []}
    asked: list[Any] = [{"role": "user", "content": "say 4"}]
    for _ in range(requests + 5):
        start = time.perf_counter()
        await direct.chat.completions.create(model="echo", messages=asked, seed=1, max_tokens=8)
        middle = time.perf_counter()
        await through.chat.completions.create(
            model="slm-mux:direct", messages=asked, max_tokens=8, extra_body={"slm_mux": {"k": 1}}
        )
        times["direct"].append(middle - start)
        times["through"].append(time.perf_counter() - middle)
    await direct.close()
    await through.close()
    # The first five open connections and import.
    return statistics.median(times["direct"][5:]), statistics.median(times["through"][5:])


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The upstream's address; it runs in a process of its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from talkers import Upstream\n"
        "with Upstream() as up:\n"
        "    print(up.base_url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@contextlib.contextmanager
def served(up: str, early: str, most_waiting: int) -> Iterator[tuple[str, int]]:
    """The address of `slm-mux serve` on the members, and its process id."""
    import socket

    text = POOL.format(early=early, deadline=DEADLINE_S)
    for name, (accuracy, model) in MEMBERS.items():
        text += (
            f'[[member]]\nname = "{name}"\naccuracy = {accuracy}\nuse = "openai"\n'
            f'base_url = "{up}"\nmodel = "{model}"\nattempts = 1\nconcurrency = 200\n'
        )
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        file = Path(folder, "pool.toml")
        file.write_text(text, encoding="utf-8")
        command = [
            *(sys.executable, "-c", "from slm_mux.cli import main; main()", "serve"),
            *("--pool", str(file), "--port", str(port), "--most-waiting", str(most_waiting)),
        ]
        process = subprocess.Popen(command)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url + "/health")
            yield url + "/v1", process.pid
        finally:
            process.terminate()
            process.wait(20)


def wait_for(url: str) -> None:
    """Until the server answers."""
    from urllib.request import ProxyHandler, build_opener

    end = time.monotonic() + 60
    while True:
        try:
            with build_opener(ProxyHandler({})).open(url, timeout=2) as answer:
                json.loads(answer.read())
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
