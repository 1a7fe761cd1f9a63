"""Times this machine's CPU for the `cpu-local` accelerator: at most so many seconds, the best of
repeats after a warm-up, in passes that lie apart, so that what disturbs one leaves the others.

The best, because whatever else the machine does only ever adds time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crosslayer.accelerators.cpu_calibration import LEAST_S, CpuCalibration, Curve, ProductGrid
from crosslayer.accelerators.cpu_kernels import (
    HEAD,
    HEADS,
    KV_TOKEN_BYTES,
    TAPS,
    WIDTH,
    Call,
    NumpyKernels,
    TorchKernels,
)
from crosslayer.machine import installed_version, machine_facts

# How far the median of the repeats lies above the best one, in the median cell: beyond it even the
# best are not to be trusted, and nothing is kept.
WILD = 0.25
# What matters most comes first: a slow machine, or a short calibration, leaves out the rest.
ROWS = (1, 64, 16, 256, 4, 1024, 2)
SIDES = (128, 512, 2048)
ELEMENTS = (1 << 10, 1 << 18, 1 << 14, 1 << 22)
KINDS = ("norm", "rope", "embedding", "silu_gate", "silu", "add")
POSITIONS = (4, 1024, 64, 256)
PROMPTS = (16, 256, 64, 1024)
CONTEXTS = (64, 4096, 512, 16384)
STATES = (1 << 12, 1 << 16, 1 << 20)
PROBE = (64, 512)  # rows and side of the product that says whether a format is of use
USEFUL = 0.5  # of fp32's rate: an integer product slower than this is nothing anybody would run
SAMPLE_S = 0.003  # one repeat loops a short call for about so long
PASSES, REPEATS = 3, 5  # passes over everything; repeats in one, at most
WARM_S = 0.02  # a call longer than that is warm after one
CELLS = 84  # about so many things are timed


Samples = dict[tuple[Any, ...], list[float]]  # of one call, by what was called


class _Timer:
    """Times calls, each in its share of the seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.clock, self.share_s = clock, seconds / PASSES / CELLS
        self.deadline = clock() + seconds / PASSES
        self.samples: Samples = {}

    def late(self, needed_s: float) -> bool:
        """Whether something that takes so long does not fit into this pass any more."""
        return self.clock() + needed_s > self.deadline

    def time(self, what: tuple[Any, ...], call: Call) -> float:
        """Adds samples of a call, warmed up; seconds of the best. None are added to those that an
        earlier pass left where this pass has no time left.
        """
        if what in self.samples and self.late(2 * min(self.samples[what])):  # warm-up and repeat
            return min(self.samples[what])
        start = self.clock()
        call(0)
        once = self.clock() - start
        if once < WARM_S:
            call(1)
            once = max(self.clock() - start - once, 1e-7)
        loops = max(1, min(256, int(SAMPLE_S / once)))
        repeats = int(max(1, min(REPEATS, self.share_s / (loops * once))))
        samples = self.samples.setdefault(what, [])
        for _ in range(repeats):
            start, first = self.clock(), 2 + len(samples) * loops
            for i in range(first, first + loops):
                call(i)
            samples.append((self.clock() - start) / loops)
            if self.late(0):
                break
        return min(samples)

    def sizes(self, sizes: Sequence[int], time: Callable[[int], float], always: int = 2) -> None:
        """Times each size in turn; after the first ones those that take too long are left out."""
        done: dict[int, float] = {}
        for size in sizes:
            below = max((known for known in done if known < size), default=None)
            needed = 0.0 if below is None else 4 * done[below] * size / below
            if len(done) < always or not self.late(needed):
                done[size] = time(size)

    def curve(self, name: tuple[Any, ...], sizes: Sequence[int], make: Any) -> None:
        """Times `make(size)` by size."""
        self.sizes(sizes, lambda size: self.time((*name, size), make(size)))


def measure(
    threads: int,
    seconds: float = 10.0,
    library: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> CpuCalibration:
    """Calibrate with torch if it is installed, else NumPy, in `seconds` at most, on a machine that
    does nothing else.
    """
    use_torch = library == "torch" or (library is None and find_spec("torch") is not None)
    if use_torch:
        import torch  # noqa: F401 (importing it is no part of the calibration)
    started = clock()
    facts, cache_bytes = machine_facts(), _last_cache_bytes()
    pool_bytes = min(256 << 20, max(64 << 20, 4 * cache_bytes))
    kernels: Any = (TorchKernels if use_torch else NumpyKernels)(pool_bytes)
    left = seconds - (clock() - started)
    timer = _Timer(left, clock)
    refused: dict[str, str] = {}
    with kernels.quiet():
        for turn in range(PASSES):
            timer.deadline = started + seconds - left + left * (turn + 1) / PASSES
            moved = _time_everything(kernels, timer, cache_bytes, refused)
    spread, chosen = settled(timer.samples)
    return CpuCalibration(
        cpu=facts["cpu"], cores=facts["cores"], threads=threads, library=kernels.name,
        version=installed_version(kernels.name) or "", disagreement=round(spread, 4),
        measured_on=datetime.now(UTC).date().isoformat(), took_s=round(clock() - started, 2),
        memory_bytes=facts["memory_bytes"] or 1 << 30, cache_bytes=cache_bytes,
        notes=tuple(refused.values()),
        copy_bytes_per_s=moved["copy"] / chosen["copy",],
        cache_bytes_per_s=moved["cache"] / chosen["cache",], call_s=chosen["call",],
        products=[_grid(chosen, form) for form in kernels.formats if (form, ROWS[0], SIDES[0])
                  in chosen],
        elementwise=[_curve(chosen, ("elementwise", kind), float) for kind in KINDS],
        depthwise=_curve(chosen, ("depthwise",), lambda n: n * WIDTH * TAPS),
        prefill_attention=_curve(chosen, ("prefill",), prefill_flops),
        decode_attention=_curve(chosen, ("decode",), lambda tokens: tokens * KV_TOKEN_BYTES),
        scan_step=_curve(chosen, ("scan",), float),
    )  # fmt: skip


def settled(samples: Samples) -> tuple[float, dict[tuple[Any, ...], float]]:
    """How far repeats disagree, and the seconds that count of each call: its best repeat."""
    spread = statistics.median(statistics.median(s) / min(s) - 1 for s in samples.values())
    return spread, {what: max(min(s), LEAST_S) for what, s in samples.items()}


def prefill_flops(tokens: int) -> float:
    """FLOPs of the causal attention that is timed."""
    return 2.0 * (tokens * (tokens + 1) // 2) * HEADS * 2 * HEAD


def _time_everything(
    kernels: Any, timer: _Timer, cache_bytes: int, refused: dict[str, str]
) -> dict[str, int]:
    """Fills timer.samples, and `refused` by format; gives the bytes that the copies move."""
    moved = {}
    for name, size in (("copy", None), ("cache", max(1 << 16, cache_bytes // 16))):
        copy, moved[name] = kernels.copy(size)
        timer.time((name,), copy)
    timer.time(("call",), kernels.product(1, 16, 16, "fp32", cold=False))
    _time_products(kernels, timer, "fp32")
    for kind in KINDS:
        timer.curve(
            ("elementwise", kind),
            ELEMENTS,
            lambda n, kind=kind: kernels.elementwise(kind, n // WIDTH),
        )
    timer.curve(("depthwise",), POSITIONS, kernels.depthwise)
    timer.curve(("prefill",), PROMPTS, kernels.prefill_attention)
    timer.curve(("decode",), CONTEXTS, kernels.decode_attention)
    timer.curve(("scan",), STATES, kernels.scan_step)
    for form in (form for form in kernels.formats if form != "fp32"):
        if ("probe", form) not in timer.samples and form not in refused:
            reason = _not_worth_it(kernels, timer, form)
            if reason:
                refused[form] = reason
        if form not in refused:
            _time_products(kernels, timer, form)
    return moved


def _time_products(kernels: Any, timer: _Timer, form: str) -> None:
    """Every size for each number of rows, as far as time allows."""

    def time_row(m: int) -> float:
        for side in SIDES:
            taken = timer.time((form, m, side), kernels.product(m, side, side, form))
        return taken

    timer.sizes(ROWS, time_row)


def _not_worth_it(kernels: Any, timer: _Timer, form: str) -> str | None:
    """Why a format has no grid of its own. bf16 has one at any rate: models are stored in it."""
    m, side = PROBE
    fp32 = timer.time(("probe", "fp32"), kernels.product(m, side, side, "fp32"))
    try:
        taken = timer.time(("probe", form), kernels.product(m, side, side, form))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return f"{form} products do not run here ({type(error).__name__}): priced as fp32."
    share = fp32 / taken
    if form == "bf16" or share > USEFUL:
        return None
    return f"{form} products run at {share:.0%} of fp32's rate here: priced as fp32."


def _curve(
    chosen: dict[tuple[Any, ...], float], name: tuple[Any, ...], size_of: Callable[[int], float]
) -> Curve:
    found = dict(sorted((what[-1], t) for what, t in chosen.items() if what[:-1] == name))
    return Curve(
        name=name[-1], sizes=[size_of(size) for size in found], seconds=list(found.values())
    )


def _grid(chosen: dict[tuple[Any, ...], float], form: str) -> ProductGrid:
    """Without the overhead of a call, which is priced apart; a tenth of a time stays at least."""
    call_s = chosen["call",]
    rows = [m for m in sorted(ROWS) if (form, m, SIDES[-1]) in chosen]
    cells = [[chosen[form, m, side] for side in SIDES] for m in rows]
    return ProductGrid(
        format=form, rows=rows, weights=[side * side for side in SIDES],
        seconds=[[max(taken - call_s, taken / 10) for taken in row] for row in cells],
    )  # fmt: skip


def _last_cache_bytes() -> int:
    """Size of the last cache level of one core's view; 32 MiB where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = file.read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
            sizes.append(int(text[:-1]) * unit[text[-1]] if text[-1] in unit else int(text))
        except (OSError, ValueError, IndexError):
            continue
    return max(sizes, default=32 << 20)
