"""Case studies: the pipeline files of cases/, each run over what it asks about.

`python benchmarks/cases.py [NAME ...] [--seeds 3]` prints a table for each, in Markdown, and draws
cases/figures/NAME.svg. Every number is modelled. Values are means over seeds, which draw new
arrivals and lengths; brackets hold the range over seeds.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crosslayer
from crosslayer.contracts.report import Figure, Panel, Series
from crosslayer.pipeline.toml_text import toml_text
from crosslayer.traces.drawing import write_svg

CASES = Path(__file__).with_name("cases")
Point = tuple[str, float | str, dict[str, Any]]  # series, x, changes of the file


@dataclass(frozen=True)
class Case:
    """points: what is run; shown: metrics and table cells in the table; drawn: those in the figure,
    each with its unit and factor.
    """

    title: str
    x_label: str
    points: Sequence[Point]
    shown: Sequence[str]
    drawn: Sequence[tuple[str, str, float]]
    log_x: bool = False
    log_y: bool = False
    seeded: bool = True


def instances(prefill: int, decode: int, both: int = 0) -> list[dict[str, Any]]:
    """So many instances of each role."""
    made: list[dict[str, Any]] = []
    for role, count in (("prefill", prefill), ("decode", decode), ("any", both)):
        made += [{"name": f"{role}{i}", "role": role} for i in range(count)]
    return made


def cases() -> dict[str, Case]:
    """All of them by name."""
    step = "simulate.0."
    batching = [
        (name, rate, {step + "scheduler": name, "workload.rate_per_s": rate} | more)
        for name, more in (
            ("static", {}),
            ("continuous", {}),
            ("mixed", {step + "token_budget": 1 << 20}),  # whole prompts, however long
            ("chunked", {}),
            ("vllm_v1", {}),
        )
        for rate in (2.0, 4.0, 6.0, 8.0)
    ]
    split = [
        ("split", f"{p}:{8 - p}", {"instance": instances(p, 8 - p)}) for p in (2, 3, 4, 5, 6)
    ] + [("both", "8 of both", {"instance": instances(0, 0, 8)})]
    tiers: list[Point] = [
        ("remote tier", rate / 1e9, {step + "tiers.0.bytes_per_s": rate})
        for rate in (1e9, 2e9, 5e9, 1e10, 2e10, 5e10)
    ]
    tiers += [("recompute", rate, {step + "tiers": []}) for rate in (1.0, 50.0)]
    paths: list[Point] = [
        ("several chains", float(k), {step + "reasoning_paths": k}) for k in (1, 2, 4, 8)
    ]
    paths += [("one chain", float(k), {step + "reasoning_scale": float(k)}) for k in (1, 2, 4, 8)]
    rag: list[Point] = [
        ("retrieval", v / 1e6, {step + "stages.search.vectors": v})
        for v in (10**6, 10**7, 10**8, 10**9, 4 * 10**9)
    ]
    gpus = [{"name": f"g{i}", "accelerator": "h100", "role": "any"} for i in range(2)]
    mixed = [
        {"name": "gpu", "accelerator": "h100", "role": "prefill"},
        {"name": "cim", "accelerator": "cim", "role": "decode", "kv_blocks": 6000},
    ]
    split_gpus = [
        {"name": "gpu", "accelerator": "h100", "role": "prefill"},
        {"name": "gpu2", "accelerator": "h100", "role": "decode"},
    ]
    pool: list[Point] = [
        (name, rate, {"instance": members, "workload.rate_per_s": rate})
        for name, members in (
            ("H100 + FlexCiM", mixed), ("H100 + H100, split", split_gpus), ("2 H100, both", gpus)
        )
        for rate in (2.0, 6.0, 12.0)
    ]  # fmt: skip
    pool += [
        ("FlexCiM, streamed", rate, {"instance": mixed, "workload.rate_per_s": rate,
                                    "accelerator.1.weights": "streamed"})
        for rate in (2.0, 6.0, 12.0)
    ]  # fmt: skip
    return {
        "batching": Case(
            "Goodput by scheduler", "requests per second", batching,
            ("goodput", "ttft_p90_s", "tpot_p90_s"),
            (("goodput", "good requests per second", 1),),
        ),
        "prefill-decode": Case(
            "Prefill and decode devices", "prefill : decode devices", split,
            ("goodput", "ttft_p90_s", "tpot_p90_s"),
            (("goodput", "good requests per second", 1),),
        ),
        "remote-kv": Case(
            "A remote tier against computing again", "GB per second of the tier", tiers,
            ("ttft_mean_s", "ttft_p99_s", "part KV fetch"),
            (("ttft_mean_s", "mean TTFT (s)", 1),), log_x=True, seeded=False,
        ),
        "reasoning": Case(
            "Chains of thought", "times as many output tokens", paths,
            ("e2e_mean_s", "e2e_p99_s", "tpot_mean_s"), (("e2e_mean_s", "mean E2E (s)", 1),),
        ),
        "rag": Case(
            "Retrieval in the time to the first token", "million vectors in the index", rag,
            ("ttft_mean_s", "retrieval share of ttft", "part search queue", "part search"),
            (("retrieval share of ttft", "share of TTFT", 1), ("ttft_mean_s", "mean TTFT (s)", 1)),
            log_x=True,
        ),
        "heterogeneous": Case(
            "Prefill on a GPU, decode on a GPU or in memory", "requests per second", pool,
            ("tpot_mean_s", "ttft_mean_s", "e2e_mean_s"), (("tpot_mean_s", "mean TPOT (ms)", 1e3),),
            log_y=True,
        ),
    }  # fmt: skip


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The document with values at dotted keys replaced."""
    made = copy.deepcopy(document)
    for key, value in changes.items():
        *way, last = key.split(".")
        here: Any = made
        for part in way:
            here = here[int(part)] if isinstance(here, list) else here[part]
        here[int(last) if isinstance(here, list) else last] = value
    return made


def values_of(run: Any) -> dict[str, float]:
    """Metrics, parts of the end-to-end time, and the share of retrieval in the TTFT."""
    found = {metric.name.rpartition("/")[2]: metric.value for metric in run.report.metrics}
    parts = {str(row[0]): float(row[1]) for row in run.report.table("breakdown").rows}
    found |= {f"part {name}": seconds for name, seconds in parts.items()}
    before = sum(s for n, s in parts.items() if n.split(" ")[0] in ("embed", "search", "rerank"))
    if found.get("ttft_mean_s"):
        found["retrieval share of ttft"] = before / found["ttft_mean_s"]
    return found


def measured(case: Case, file: Path, seeds: int) -> Iterator[tuple[Point, list[dict[str, float]]]]:
    """Each point with its values for each seed."""
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for trace in CASES.glob("*.jsonl"):
            shutil.copy(trace, folder)
        path = Path(folder, "case.toml")
        for point in case.points:
            found = []
            for seed in range(seeds if case.seeded else 1):
                made = changed(document, point[2])
                made["pipeline"]["seed"] = seed
                path.write_text(toml_text(made), encoding="utf-8")
                found.append(values_of(crosslayer.run(path, runs_dir=folder)))
            yield point, found


def show(name: str, case: Case, seeds: int) -> None:
    """Run a case, print its table, draw its figure."""
    print(f"\n### {name}\n\n| | {case.x_label} | {' | '.join(case.shown)} |")
    print("|---|---|" + "---|" * len(case.shown))
    lines: dict[str, list[tuple[float | str, dict[str, float]]]] = {}
    for (series, x, _), found in measured(case, CASES / f"{name}.toml", seeds):
        cells = [_cell([one.get(metric, 0.0) for one in found]) for metric in case.shown]
        at = f"{x:g}" if isinstance(x, float) else x
        print(f"| {series} | {at} | {' | '.join(cells)} |", flush=True)
        mean = {m: _mean([one.get(m, 0.0) for one in found]) for m, _, _ in case.drawn}
        lines.setdefault(series, []).append((x, mean))
    panels = []
    for metric, label, factor in case.drawn:
        series = []
        for line, points in lines.items():
            xs: Any = tuple(x for x, _ in points)
            series.append(
                Series(label=line, x=xs, y=tuple(factor * values[metric] for _, values in points))
            )
        kind = "bars" if any(isinstance(one.x[0], str) for one in series) else "line"
        if kind == "bars":
            everything = [(x, y) for one in series for x, y in zip(one.x, one.y, strict=True)]
            series = [Series(label=label, x=tuple(str(x) for x, _ in everything),
                             y=tuple(y for _, y in everything))]  # fmt: skip
        scale = "log" if case.log_y else "linear"
        panels.append(Panel(series=tuple(series), y_label=label, kind=kind, y_scale=scale))
    figure = Figure(
        name=name.replace("-", "_"), title=case.title, x_label=case.x_label, panels=tuple(panels),
        x_scale="log" if case.log_x else "linear", provenance="modelled",
        source=f"hermes, cases/{name}.toml",
    )  # fmt: skip
    folder = CASES / "figures"
    folder.mkdir(exist_ok=True)
    write_svg((figure,), folder / f"{name}.svg")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(values: Sequence[float]) -> str:
    text = f"{_mean(values):.3g}"
    return text if len(values) == 1 else f"{text} [{min(values):.3g}, {max(values):.3g}]"


def main() -> None:
    """Run the cases that are named, or all."""
    everything: dict[str, Case] = cases()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(everything))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    pick: Callable[[str], bool] = lambda name: not asked.names or name in asked.names  # noqa: E731
    for name, case in everything.items():
        if pick(name):
            show(name, case, asked.seeds)


if __name__ == "__main__":
    main()
