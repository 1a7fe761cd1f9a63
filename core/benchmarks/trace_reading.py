"""CPU seconds and peak memory of reading a trace of a million rows, beside pandas on the same file.

    python core/benchmarks/trace_reading.py [--rows N] [--write]

Synthetic rows in the formats of the public releases. CSV against `pandas.read_csv`, JSON lines
against `pandas.read_json(lines=True)`, neither of which checks or converts as much. Each reading is
a process of its own: CPU time of the reading alone, best of three; peak is that of the whole
process, with Python and NumPy in it (Linux's VmHWM). --write puts the table into the README beside
this file. Needs pandas.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from readme import markdown_table, write_section

from crosslayer.traces.formats import BURSTGPT_SESSIONS

ONE_READING = """
import re, sys, time
path = sys.argv[1]
if sys.argv[2] == "pandas":
    import pandas
    read = pandas.read_csv if path.endswith(".csv") else lambda p: pandas.read_json(p, lines=True)
else:
    from crosslayer.traces import read_trace as read
start = time.process_time()
rows = len(read(path))
seconds = time.process_time() - start
# Not getrusage: its peak starts at that of the process which started this one.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(seconds, int(peak[1]) * 1024, rows)
"""


def rows_of(format: str, rows: int, rng: np.random.Generator) -> Iterator[str]:
    """The lines of a file of that many requests."""
    at = np.cumsum(rng.integers(0, 20_000_000, rows))  # in units of 100 ns
    prompts, outputs = rng.integers(1, 8000, rows).tolist(), rng.integers(1, 1000, rows).tolist()
    zone, header = "", "TIMESTAMP,ContextTokens,GeneratedTokens"
    if format == "azure-llm 2024":
        at, zone = at // 10 * 10, "+00:00"
    if format.startswith("azure-llm"):
        start = np.datetime64("2023-11-16T18:15:46", "ns")
        dates = np.datetime_as_string(start + at * 100, unit="ns")
        end = -3 if zone else -2
        yield header
        for date, prompt, output in zip(dates.tolist(), prompts, outputs, strict=True):
            yield f"{date.replace('T', ' ')[:end]}{zone},{prompt},{output}"
    elif format == "burstgpt":
        yield ",".join(BURSTGPT_SESSIONS.header)
        users = rng.integers(0, 2**62, rows // 20)[rng.integers(0, rows // 20, rows)].tolist()
        for time, user, prompt, output in zip(
            (at // 10_000_000).tolist(), users, prompts, outputs, strict=True
        ):
            session = f"{user:032x}" if user % 20 == 0 else ""
            yield f"{time}.0,{session},3,ChatGPT,{prompt},{output},{prompt + output},API log"
    elif format == "mooncake":
        times = (at // 10_000).tolist()
        for i, (time, prompt, output) in enumerate(zip(times, prompts, outputs, strict=True)):
            ids = list(range(i, i + -(-prompt // 512)))
            value = {"timestamp": time, "input_length": prompt, "output_length": output}
            yield json.dumps(value | {"hash_ids": ids})
    else:
        yield '{"crosslayer_trace": 1}'
        for time, prompt, output in zip((at * 100).tolist(), prompts, outputs, strict=True):
            yield f'{{"arrival_ns":{time},"prompt_tokens":{prompt},"output_tokens":{output}}}'


def reading(path: Path, by: str) -> tuple[float, float]:
    """(CPU seconds, peak bytes) of the best of three processes."""
    found = []
    for _ in range(3):
        command = [sys.executable, "-c", ONE_READING, str(path), by]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak, _ = done.stdout.split()
        found.append((float(seconds), float(peak)))
    return min(found)


def main() -> None:
    """Prints the table; with --write also into the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    import pandas

    table = []
    with tempfile.TemporaryDirectory() as folder:
        for format in ("azure-llm 2023", "azure-llm 2024", "burstgpt", "mooncake", "crosslayer"):
            csv = format.startswith(("azure", "burst"))
            path = Path(folder) / f"trace.{'csv' if csv else 'jsonl'}"
            lines = rows_of(format, arguments.rows, np.random.default_rng(7))
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            (ours, peak), (theirs, their_peak) = (
                reading(path, "crosslayer"),
                reading(path, "pandas"),
            )
            size = f"{path.stat().st_size / 1e6:.0f}"
            ratio = f"{ours / theirs:.2f}"
            peaks = f"{peak / 1e6:.0f}", f"{their_peak / 1e6:.0f}"
            table.append([format, size, f"{ours:.2f}", f"{theirs:.2f}", ratio, *peaks])
    head = ("format", "file (MB)", "CPU s", "pandas CPU s", "ratio", "peak (MB)", "pandas (MB)")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = f"""
*measured* on {machine}, NumPy {np.__version__}, pandas {pandas.__version__}:
{arguments.rows:,} rows, CPU seconds, best of three; peak memory of the whole process.

{markdown_table(head, table)}"""
    print(text)
    if arguments.write:
        write_section("trace-reading", text)


if __name__ == "__main__":
    main()
