"""This machine's CPU, as a short calibration measures it.

The calibration is measured; what it predicts is modelled. A product takes the time measured for its
number of rows and the size of its matrix, interpolated in the logarithm of both, and the overhead
of a call. Attention, recurrences and elementwise work take the time measured for their kind and
size. Every op is timed as eager code runs it, on shapes that belong to no particular model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosslayer.accelerators import cpu_calibration
from crosslayer.accelerators.cpu_calibration import CpuCalibration, Curve, ProductGrid
from crosslayer.accelerators.cpu_params import CpuLocalParams
from crosslayer.contracts import ops
from crosslayer.contracts.cost import BOUNDS, Cost, CostTable
from crosslayer.contracts.hardware import HardwareSpec, Memory, Rate
from crosslayer.contracts.ops import Op, OpTable
from crosslayer.errors import InputError, UnsupportedOp
from crosslayer.progress import Progress, progress_for

NAME = "cpu-local"
COMPUTE, MEMORY, LAUNCH = (BOUNDS.index(name) for name in ("compute", "memory", "launch"))


class CpuLocal:
    """The CPU that this process runs on; calibrated at the first estimate, never before.

    this_machine: measured times of this process can stand beside its predictions.
    """

    this_machine = True

    def __init__(self, params: CpuLocalParams | None = None) -> None:
        self.params = params or CpuLocalParams()
        self._found: CpuCalibration | None = None

    def identity(self, progress: Progress) -> str:
        """A hash of the calibration, which is measured now if there is none; for cache keys."""
        return self._calibrated(progress).digest

    @property
    def calibration(self) -> CpuCalibration:
        """The calibration it prices with, measured now if there is none."""
        return self._calibrated(None)

    def supports(self, op: Op) -> bool:
        """What eager code has a call for, or a loop that says what it costs."""
        return _refusal(op) is None

    def describe(self) -> HardwareSpec:
        """What the calibration found; a note alone where there is none: this measures nothing."""
        if self._found is None and self.params.calibrate != "always":
            self._found = self._kept()
        if self._found is None:
            return HardwareSpec(name=NAME, notes=(f"{NAME} is not calibrated yet.",))
        found = self._found
        source = f"{found.source}, a calibration of {found.took_s:g} s"
        rates = tuple(
            Rate(format=grid.format, flops_per_s=grid.peak_flops_per_s, source=source)
            for grid in found.products
        )
        ram = Memory(
            name="RAM", bytes=found.memory_bytes, bytes_per_s=found.copy_bytes_per_s,
            source=f"copy, {source}",
        )  # fmt: skip
        cache = Memory(
            name="last-level cache", bytes=found.cache_bytes, bytes_per_s=found.cache_bytes_per_s,
            source=f"copy of a sixteenth of its size, {source}",
        )  # fmt: skip
        how = "computes in fp32 and dense, as live models do"
        if self.params.formats == "stored":
            how = f"computes in {', '.join(rate.format for rate in rates)}, other formats as fp32"
        return HardwareSpec(
            name=NAME, rates=rates, memories=(ram, cache), launch_overhead_s=found.call_s,
            launch_source=f"the smallest product, {source}",
            notes=(f"{NAME} {how}; {source}.", *found.notes),
        )  # fmt: skip

    def estimate(self, op: Op) -> Cost:
        """Cost of one op. Errors: UnsupportedOp, see `supports`; InputError with calibrate =
        "never" and no calibration.
        """
        seconds, flops, moved, bound = self._estimate(op)
        return Cost(float(seconds), None, float(flops), float(moved), BOUNDS[int(bound)])

    def estimate_many(self, table: OpTable) -> CostTable:
        """The same as columns."""
        columns = (_column(values, len(table)) for values in self._estimate(table))
        seconds, flops, moved, bound = columns
        return CostTable(seconds, None, flops, moved, bound.astype(np.int8))

    def _estimate(self, op: Any) -> tuple[Any, Any, Any, Any]:
        kind = ops.op_type(op)
        refusal = _refusal(op)
        if refusal is not None:
            raise UnsupportedOp(f"{NAME} {refusal}")
        found = self._calibrated(None)
        form = self.compute_format(op)
        flops, moved = ops.flops(op), ops.moved_bytes(_in_format(op, form))
        if kind is ops.Gemm:
            seconds, calls = self._product(form, op.m, op.k * op.n, op.groups)
        elif kind is ops.Conv2d and op.groups == 1:
            taps = op.kernel_h * op.kernel_w * op.in_channels
            seconds, calls = self._product(form, op.positions, taps * op.out_channels, 1)
        else:
            seconds, calls = _by_curve(found, op), 1
        # what bounds it: most of the time is overhead, or moving its bytes, or arithmetic
        launch = calls * found.call_s
        memory = moved / found.copy_bytes_per_s
        bound = np.where(2 * memory >= seconds, MEMORY, COMPUTE)
        return seconds, flops, moved, np.where(2 * launch >= seconds, LAUNCH, bound)

    def compute_format(self, op: Any) -> str:
        """The format that an op computes in: fp32, or with `formats = "stored"` its operands' if
        they are alike and the calibration has a grid of it.
        """
        kind = ops.op_type(op)
        if self.params.formats == "live" or kind not in (ops.Gemm, ops.Conv2d):
            return "fp32"
        known = {grid.format for grid in self._calibrated(None).products}
        alike = op.weight_format == op.activation_format
        return op.weight_format if alike and op.weight_format in known else "fp32"

    def _product(self, form: str, m: Any, weights: Any, groups: Any) -> tuple[Any, Any]:
        """Seconds of `m` rows spread over `groups` products, and how many calls that is."""
        found = self._calibrated(None)
        some = np.maximum(groups, 1e-12)
        return groups * (_grid(found, form).at(m / some, weights) + found.call_s), groups

    def _calibrated(self, progress: Progress | None) -> CpuCalibration:
        if self._found is None:
            self._found = self._kept() if self.params.calibrate != "always" else None
        if self._found is None:
            if self.params.calibrate == "never":
                raise InputError(
                    f"{NAME}: no calibration of this machine is stored and calibrate is 'never'; "
                    "set it to 'auto', or name a calibration_file"
                )
            self._found = _measured(self.params, progress or progress_for())
        return self._found

    def _kept(self) -> CpuCalibration | None:
        """The calibration of the file that the parameters name, or the cache's; None if none."""
        if self.params.calibration_file is not None:
            return cpu_calibration.read(self.params.calibration_file)
        return _stored(self.params)


def _stored(params: CpuLocalParams) -> CpuCalibration | None:
    """The cache's calibration of this machine; None for none, or one that cannot be read."""
    threads = cpu_calibration.threads_now()
    path = cpu_calibration.calibration_path(threads, params.calibration_s)
    if not path.is_file():
        return None
    try:
        return cpu_calibration.read(path)
    except InputError:
        return None


def _measured(params: CpuLocalParams, progress: Progress) -> CpuCalibration:
    """Measure, say so, and keep it if its repeats agree; one process at a time."""
    from crosslayer.accelerators.cpu_measure import WILD, measure
    from crosslayer.filelock import exclusive

    threads = cpu_calibration.threads_now()
    path = cpu_calibration.calibration_path(threads, params.calibration_s)
    waiting = f"{NAME}: another process is calibrating; waiting"
    with exclusive(path.with_suffix(".lock"), lambda: progress.say(waiting)):
        if params.calibrate == "auto" and (found := _stored(params)) is not None:
            return found
        limit = f"at most {params.calibration_s:g} s"
        progress.say(f"{NAME}: calibrating this CPU with {threads} threads, {limit}")
        found = measure(threads, params.calibration_s)
        spread = f"repeats differ by {found.disagreement:.0%}"
        if found.disagreement > WILD:
            progress.say(
                f"{NAME}: {spread}, something else is running; it is used this once and not stored"
            )
            return found
        progress.say(f"{NAME}: calibrated in {found.took_s:.1f} s, {spread}, the best count")
        try:
            cpu_calibration.write(path, found)
        except OSError as error:
            progress.say(f"{NAME}: {path} cannot be written ({error.strerror or error})")
    return found


def _refusal(op: Any) -> str | None:
    """Why an op has no price here; None if it has one."""
    kind = ops.op_type(op)
    if kind is ops.Collective:
        return "is one device and prices no Collective"
    if kind is ops.CircularConvolution:
        return (
            "prices no CircularConvolution: whether code gathers a matrix or takes an FFT decides"
        )
    if kind is ops.SelectiveScan and op.heads is not None:
        return (
            "prices no scan with heads (Mamba-2): eager code computes it in chunks, filled up to a"
            " size that no op says"
        )
    if kind is ops.Conv2d and op.groups > 1 and op.kernel_h > 1:
        return "prices no grouped convolution of a picture: only 1-D ones are calibrated"
    return None


def _by_curve(found: CpuCalibration, op: Any) -> Any:
    kind = ops.op_type(op)
    if kind is ops.Attention:
        if op.phase == "prefill":
            return found.prefill_attention.at(ops.flops(op))
        return found.decode_attention.at(_kv_bytes(op))
    if kind is ops.SelectiveScan:
        # eager code goes token by token, all sequences at once
        sequences = np.maximum(op.sequences, 1)
        steps = np.maximum(op.tokens / sequences, 1)
        return steps * found.scan_step.at(sequences * op.channels * op.state)
    if kind is ops.Conv2d:  # 1-D and grouped
        return found.depthwise.at(ops.flops(op) / 2)
    names = {curve.name for curve in found.elementwise}
    like = op.kind if op.kind in names else "add" if op.reads > 1 else "silu"
    extra = np.maximum(op.reads / (2 if like in ("add", "silu_gate") else 1), 1)
    return _elementwise(found, like).at(op.elements * extra)


def _elementwise(found: CpuCalibration, name: str) -> Curve:
    return next(curve for curve in found.elementwise if curve.name == name)


def _grid(found: CpuCalibration, form: str) -> ProductGrid:
    return next(grid for grid in found.products if grid.format == form)


def _kv_bytes(op: Any) -> Any:
    """K and V of the tokens that are read, in fp32."""
    return op.kv_tokens * op.kv_heads * (op.head_dim + op.value_dim) * 4.0


def _in_format(op: Any, form: str) -> Any:
    """The op as it is computed: dense, operands in `form`."""
    kind = ops.op_type(op)
    changes: dict[str, Any] = {"activation_format": form}
    if kind in (ops.Gemm, ops.Conv2d, ops.Elementwise):
        changes["weight_format"] = form
    if kind is ops.Gemm:
        changes |= {"sparsity": None, "outlier_share": 0.0, "outlier_format": None}
    if kind is ops.Attention:
        changes |= {"kv_format": "fp32", "kv_bytes": _kv_bytes(op)}
    return ops.changed(op, **changes)


def _column(values: Any, rows: int) -> Any:
    array = np.asarray(values)
    return array if array.shape == (rows,) else np.full(rows, array)
