"""Workload C: transformers trained on traces with known phases answer from a compressed cache.

Each model of `traces.py` reads traces in pieces of 16 tokens, as if it had generated them (none is
prompt), and then follows one plan's chain of facts by itself, greedily, each plan's on its own copy
of the cache. Counted: final answers that are right (the last node, and END after it), tokens that
are right, and how long the answers are against the full cache's (cut at twice the right
length). A seed is a trained model with its own traces. Segments of 128 tokens are the phases.

Thresholds come from other traces of the same model, by the package's own calibration. Where it
falls back, "thinkv" has one type of thought, and the ablations "tbq" and "tbe" take the planted
phases as "oracle" does; "shuffled" has those in random order. `python benchmarks/thoughts.py`
trains what is missing, goes on where it was interrupted, prints the tables of the cells that all
seeds have, and draws --figure.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kvpress_peer import SCORERS
from results import Results, folder_argument, shown, table
from thoughts_figure import draw
from traces import END, LETTERS, LIMIT, PHASE, ROUNDS, load, trace, train

from thinkv.cache import MethodCache, attached
from thinkv.calibration import Calibration, CalibrationSettings, fit
from thinkv.methods import full_layer_bytes, method, shape_of
from thinkv.replay import sparsity_rows
from thinkv.row import Labeller, ThinKVRow
from thinkv.thoughts import Rules, Thought

FIXED = ("full", "tbq")
BUDGETED = (
    *("window", "thinkv", "one-type", "oracle", "shuffled", "tbe"),
    *("h2o", "rkv", "snapkv", "random"),
)
KIVI = ("kivi4", "kivi2")
PEERS = tuple(f"kvpress {name}" for name in SCORERS)  # cells of kvpress_peer.py, where it has run
RULES = Rules(segment_tokens=PHASE)
PLANTED = tuple({t.letter: t for t in Thought}[letter] for letter in LETTERS * ROUNDS)
SETTINGS = CalibrationSettings(layers=1, skip_tokens=PHASE)  # of three layers, one votes


def calibration(net: Any, seed: int, traces: int = 4) -> dict[str, Any]:
    """found: thresholds from other traces of this model. means: [layer][thought] mean sparsity."""
    rng = np.random.default_rng(5000 + seed)
    rows = [sparsity_rows(net, torch.tensor(trace(rng).tokens), SETTINGS) for _ in range(traces)]
    phases = np.array([PLANTED[i // PHASE] for i in range(len(PLANTED) * PHASE)])
    phases = phases[SETTINGS.skip_tokens :]
    means = [
        [float(np.mean([row[layer][phases == kind].mean() for row in rows])) for kind in Thought]
        for layer in rows[0]
    ]
    found = fit(rows, SETTINGS, "traces", f"seed {seed}")
    return {"found": found.model_dump(mode="json"), "means": means}


def labeller(name: str, found: Calibration, rng: np.random.Generator) -> Labeller:
    """How a method's segments are labelled."""
    if name == "shuffled":  # the first segment is R whatever a label says
        order = 1 + rng.permutation(len(PLANTED) - 1)
        return Labeller(labels=(PLANTED[0], *(PLANTED[i] for i in order)))
    fallback = found.status == "fallback"
    if name == "oracle" or (fallback and name in ("tbq", "tbe")):
        return Labeller(labels=PLANTED)
    return Labeller() if fallback else Labeller(layers=found.layers, thresholds=found.thresholds)


def answer(net: Any, cache: Any, ids: list[int], at: int, limit: int) -> list[int]:
    """Greedy tokens after ids until END."""
    said: list[int] = []
    while len(said) < limit and END not in said:
        positions = torch.arange(at, at + len(ids))[None]
        logits = net(
            input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache
        ).logits
        at += len(ids)
        said.append(int(logits[0, -1].argmax()))
        ids = said[-1:]
    return said


def run(net: Any, found: Calibration, name: str, share: float, seed: int, traces: int) -> dict:
    """One method on one model's traces. share: of the bytes of the full cache in fp16."""
    rng, shuffling = np.random.default_rng(9000 + seed), np.random.default_rng(seed)
    out: dict[str, Any] = {"final": [], "right": [], "length": [], "share": [], "found": []}
    for _ in range(traces):
        one = trace(rng)
        asked = 1 + len(one.questions[0][1])
        shape = shape_of(net.config, 0, len(one.tokens) + asked)
        whole = full_layer_bytes(shape) * net.config.num_hidden_layers
        labels = labeller(name, found, shuffling)
        chosen = method(name, shape, share * full_layer_bytes(shape), seed, labels, RULES)
        cache = MethodCache(net.config, chosen.make_row)
        peak = 0
        with attached(net), torch.inference_mode():
            for start in range(0, len(one.tokens), 16):
                piece = torch.tensor([one.tokens[start : start + 16]])
                positions = torch.arange(start, start + 16)[None]
                net(input_ids=piece, position_ids=positions, past_key_values=cache)
                cache.settle()
                peak = max(peak, sum(cache.bytes().values()))
            for first, reply in one.questions:
                own = copy.deepcopy(cache)
                said = answer(net, own, [first], len(one.tokens), LIMIT * len(reply))
                peak = max(peak, sum(own.bytes().values()))
                out["final"].append(said[-2:] == reply[-2:])
                out["right"].append(
                    sum(a == b for a, b in zip(said, reply, strict=False)) / len(reply)
                )
                out["length"].append(len(said))
        out["share"].append(peak / whole)
        row = cache.rows[0]
        if isinstance(row, ThinKVRow):
            out["found"] += [
                [int(p), int(label)]
                for p, (*_, label) in zip(PLANTED[1:], row.history, strict=False)
            ]
    confusion = np.zeros((3, 3), int)
    for planted, label in out.pop("found"):
        confusion[planted, label] += 1
    return {key: float(np.mean(values)) for key, values in out.items()} | {
        "confusion": confusion.tolist(),
        "budget": chosen.budget_tokens,
    }


def main() -> None:
    """Train, run every cell, print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--traces", type=int, default=2, help="of each model, three answers each")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.1])
    parser.add_argument("--methods", nargs="+", default=[*FIXED, *BUDGETED, *KIVI])
    parser.add_argument("--cpu-seconds", type=float, help="begin no cell after them")
    parser.add_argument("--figure", type=Path, help="draw accuracy against bytes")
    folder_argument(parser)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(asked.first, asked.first + asked.seeds)
    results = Results(asked.folder / f"thoughts-{asked.traces}.jsonl")
    cells = [(name, 1.0) for name in FIXED if name in asked.methods]
    cells += [(n, share) for share in asked.shares for n in BUDGETED if n in asked.methods]
    cells += [(name, 1.0) for name in KIVI if name in asked.methods]
    states = []
    for seed in seeds:
        train(asked.folder, seed)
        net = load(asked.folder, seed)
        cell = results.cell(("calibration", 0, seed), lambda i=seed, net=net: calibration(net, i))
        states.append((seed, net, Calibration.model_validate(cell["found"]), cell["means"]))
    for name, share in cells:
        for seed, net, found, _ in states:
            if asked.cpu_seconds and time.process_time() > asked.cpu_seconds:
                break
            same = name == "one-type" and found.status == "fallback"  # then it is "thinkv"
            results.cell(
                (name, share, seed),
                lambda n=name, s=share, i=seed, net=net, c=found, same=same: (
                    results.rows["thinkv", s, i] if same else run(net, c, n, s, i, asked.traces)
                ),
            )
    cells += [(name, share) for share in asked.shares for name in PEERS]
    cells = [cell for cell in cells if all((*cell, seed) in results.rows for seed in seeds)]
    report(results, cells, seeds, states)
    if asked.figure:
        points: dict[str, list[tuple[float, list[float]]]] = {}
        for name, share in cells:
            rows = [results.rows[name, share, seed] for seed in seeds]
            at = float(np.mean([row["share"] for row in rows]))
            points.setdefault(name, []).append((at, [row["final"] for row in rows]))
        draw(asked.figure, points)


def report(
    results: Results, cells: list[tuple[str, float]], seeds: range, states: list[Any]
) -> None:
    """Print what the calibration found, the table of methods and the table of labels."""
    for seed, _, found, means in states:
        modes = "; ".join(
            f"layer {one.layer}: modes {one.modes}, mean sparsity "
            + ", ".join(f"{k.letter} {means[one.layer][k]:.2f}" for k in reversed(Thought))
            for one in found.per_layer
        )
        print(f"seed {seed}: {found.status}, {found.reason}; {found.thresholds}; {modes}")
    rows = []
    for name, share in cells:
        of = [results.rows[name, share, seed] for seed in seeds]
        full = [results.rows["full", 1.0, seed]["length"] for seed in seeds]
        inflation = [one["length"] / whole for one, whole in zip(of, full, strict=True)]
        rows.append(
            [
                name,
                f"{np.mean([one['share'] for one in of]):.3f}",
                *(shown([one[key] for one in of], 2) for key in ("final", "right")),
                shown(inflation, 2),
            ]
        )
    head = ["method", "peak bytes / fp16 full", "final answers right", "tokens right"]
    print(table([*head, "length / full's"], rows))
    counted: dict[str, Any] = {}
    for name, share in cells:
        if name in ("thinkv", "shuffled"):
            of = [results.rows[name, share, seed]["confusion"] for seed in seeds]
            counted[f"{name} at {share}"] = np.sum(of, axis=0)
    rows = [
        [name, planted.letter, *(str(matrix[planted, k]) for k in reversed(Thought))]
        for name, matrix in counted.items()
        for planted in reversed(Thought)
    ]
    print(
        "\n" + table(["method", "planted", *(f"found {k.letter}" for k in reversed(Thought))], rows)
    )


if __name__ == "__main__":
    main()
