"""A real RTX 4090 serving Llama-3.1-8B in bf16, against the roofline with nothing tuned.

Recorded by LLMServingSim (github.com/casys-kaist/LLMServingSim, MIT) with vLLM 0.19: the run times
of each kernel alone (profile/), and a run of 300 requests on the same card.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from crosslayer.accelerators.params import RooflineParams
from crosslayer.accelerators.roofline import Roofline
from crosslayer.contracts.steps import SequenceState, StepShape
from crosslayer.kinds import Instance, Stack
from crosslayer.models.presets import SpecPreset

MODEL = SpecPreset("llama-3.1-8b")()
CARD = Instance("rtx4090", MODEL, Roofline(RooflineParams(preset="rtx4090")))
STACK = Stack((CARD,))
LAYERS = 32
# What a pass runs once a layer (norms: twice) and once, by the profile's names.
EACH_LAYER = {
    "layernorm": 2, "qkv_proj": 1, "rotary_emb": 1, "o_proj": 1, "gate_up_proj": 1, "act_fn": 1,
    "down_proj": 1,
}  # fmt: skip
ONCE = ("embedding", "final_layernorm")
PREFILLS = (16, 64, 256, 512, 1024, 2048)
DECODES = ((1, 128), (1, 1024), (1, 16384), (8, 1024), (32, 128), (32, 1024), (64, 512), (128, 256))
MIXED = ((512, 16, 1024), (1024, 32, 512))  # the profile has these sums of tokens


@dataclass(frozen=True)
class Anchor:
    """One recorded time (s) and the modelled one."""

    name: str
    recorded: float
    modelled: float

    @property
    def error(self) -> float:
        """Signed: below 0 where the model is faster than the card."""
        return self.modelled / self.recorded - 1


def modelled(sequences: list[SequenceState]) -> float:
    """Seconds of one pass over these sequences."""
    return STACK.step_cost(CARD, StepShape.from_sequences(MODEL.spec, sequences)).seconds


class Profile:
    """The kernels' recorded microseconds, by what their time depends on."""

    def __init__(self, folder: Path) -> None:
        self.dense = _microseconds(folder / "dense.csv", "tokens")
        self.sequences = _microseconds(folder / "per_sequence.csv", "sequences")
        names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        self.attention = {
            tuple(int(row[name]) for name in names): float(row["time_us"])
            for row in _rows(folder / "attention.csv")
        }

    def step(self, chunk: int, decodes: int, kv: int) -> float:
        """Seconds of a pass over a prompt (0: none) and `decodes` sequences of `kv` keys each.

        The sampler is left out: the model has none.
        """
        tokens, sequences = chunk + decodes, (chunk > 0) + decodes
        layer = sum(n * self.dense[name, tokens] for name, n in EACH_LAYER.items())
        layer += self.attention[chunk, 0, decodes, kv if decodes else 0]
        once = sum(self.dense[name, tokens] for name in ONCE)
        return (LAYERS * layer + once + self._at(sequences)) * 1e-6

    def _at(self, sequences: int) -> float:
        """The LM head's time, between the profiled counts by a straight line."""
        known = sorted(count for name, count in self.sequences if name == "lm_head")
        low = max(count for count in known if count <= sequences)
        high = min(count for count in known if count >= sequences)
        a, b = self.sequences["lm_head", low], self.sequences["lm_head", high]
        return a if low == high else a + (b - a) * (sequences - low) / (high - low)


def kernel_anchors(data: Path) -> list[Anchor]:
    """Whole passes put together from recorded kernels."""
    profile = Profile(data / "profile")
    made = []
    for chunk in PREFILLS:
        made.append(
            Anchor(f"prefill {chunk}", profile.step(chunk, 0, 0), modelled([(chunk, 0, 0)]))
        )
    for count, kv in DECODES:
        batch = [(1, kv - 1, 0)] * count
        made.append(Anchor(f"decode {count} x {kv}", profile.step(0, count, kv), modelled(batch)))
    for chunk, count, kv in MIXED:
        batch = [(chunk, 0, 0), *[(1, kv - 1, 0)] * count]
        name = f"prefill {chunk} + decode {count} x {kv}"
        made.append(Anchor(name, profile.step(chunk, count, kv), modelled(batch)))
    return made


@dataclass(frozen=True)
class Second:
    """A second of the run: prompt and generated tokens, sequences, share of the KV cache used."""

    at: float
    prompt_tokens: float
    generated: float
    running: int
    kv_share: float


def run_seconds(data: Path) -> list[Second]:
    """The run's log, a row a second."""
    return [
        Second(
            float(row["t"]), float(row["prompt_throughput"]), float(row["gen_throughput"]),
            int(row["running"]), float(row["kv_cache_pct"]) / 100,
        )
        for row in _rows(data / "timeseries.csv")
    ]  # fmt: skip


def modelled_decode(second: Second, kv_tokens: int) -> float:
    """Seconds of a decode step of the sequences of that second, even shares of the cache each."""
    keys = max(1, round(second.kv_share * kv_tokens / second.running))
    return modelled([(1, keys, 0)] * second.running)


def decode_seconds(data: Path) -> list[Anchor]:
    """Undisturbed seconds: no prompts, at most one sequence came or went.

    Sequences / generated tokens of such a second is the time of one step.
    """
    kv_tokens = _kv_tokens(data)
    made = []
    for before, now in pairwise(run_seconds(data)):
        undisturbed = before.prompt_tokens == now.prompt_tokens == 0
        undisturbed &= abs(before.running - now.running) <= 1
        if undisturbed and now.running > 0 and now.generated > 0:
            recorded = now.running / now.generated
            made.append(Anchor(f"second {now.at:g}", recorded, modelled_decode(now, kv_tokens)))
    return made


def request_anchors(data: Path) -> list[Anchor]:
    """Time per output token of each request, and decode steps of what ran beside it."""
    kv_tokens = _kv_tokens(data)
    log = [second for second in run_seconds(data) if second.running]
    steps = [modelled_decode(second, kv_tokens) for second in log]
    lines = (data / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    requests = [json.loads(line) for line in lines]
    start = min(request["queued_ts"] for request in requests)  # the log's zero, within a second
    made = []
    for request in requests:
        first, last = request["first_token_ts"] - start, request["last_token_ts"] - start
        seen = [s for second, s in zip(log, steps, strict=True) if first <= second.at <= last + 1]
        if request["output_toks"] > 1 and seen:
            recorded = (last - first) / (request["output_toks"] - 1)
            made.append(Anchor(request["request_id"], recorded, mean(seen)))
    return made


def _kv_tokens(data: Path) -> int:
    cache = json.loads((data / "meta.json").read_text(encoding="utf-8"))["kv_cache"]
    return int(cache["num_kv_tokens"])


def _microseconds(file: Path, count: str) -> dict[tuple[str, int], float]:
    return {(row["layer"], int(row[count])): float(row["time_us"]) for row in _rows(file)}


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
