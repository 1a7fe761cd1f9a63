"""What a simulation shows: metrics, tables, figures as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosslayer.contracts.report import Cell, Column, Figure, Metric, Panel, Series, Table
from hermes_sim.client import Client
from hermes_sim.energy import Parts, energy_parts, energy_table, total_joules
from hermes_sim.metrics import Floats, percentile
from hermes_sim.outcome import Outcome
from hermes_sim.params import HermesParams, Objectives
from hermes_sim.tape import Tape

SHARES = (50, 90, 99)
UNITS = {"ttft": "s", "tpot": "s/token", "e2e": "s"}
TIMELINE_POINTS = 240


@dataclass(frozen=True)
class Shown:
    """What the report is made of. source: on what the numbers stand."""

    outcome: Outcome
    tape: Tape
    clients: Sequence[Client]
    params: HermesParams
    source: str

    @property
    def energy(self) -> Parts:
        """What used how many joules."""
        outcome = self.outcome
        return energy_parts(self.clients, self.params, outcome.span_s, outcome.stage_ns)

    @property
    def counted(self) -> Any:
        """Which requests count in latencies."""
        return self.outcome.counted(self.params.skip_s)

    def latency(self, name: str) -> Floats:
        """A latency of the requests that count, without those that have none."""
        values = self.outcome.latencies()[name][self.counted]
        found: Floats = values[~np.isnan(values)]
        return found


def metrics(shown: Shown) -> list[Metric]:
    """Latencies, rates, SLO attainment, energy and cost, and what went wrong."""
    outcome, params = shown.outcome, shown.params
    made: list[Metric] = []

    def add(name: str, value: float, unit: str, better: str | None, **more: Any) -> None:
        fields = {"name": name, "value": float(value), "unit": unit, "better": better}
        common = {"provenance": "modelled", "source": shown.source}
        made.append(Metric.model_validate(fields | common | more))

    for name, unit in UNITS.items():
        values = shown.latency(name)
        if len(values):
            add(f"{name}_mean_s", float(values.mean()), unit, "lower", samples=len(values))
        for rank in SHARES if len(values) else ():
            add(f"{name}_p{rank}_s", percentile(values, rank), unit, "lower", samples=len(values))
    span = outcome.span_s
    finished = outcome.finished
    tokens = int(outcome.all_tokens[finished].sum())
    if span:
        add("request_throughput", finished.sum() / span, "request/s", "higher")
        add("output_token_throughput", tokens / span, "token/s", "higher")
    if params.slo:
        good = meets(outcome, params.slo)[shown.counted]
        if len(good):
            add("slo_attainment", good.mean(), "fraction", "higher", samples=len(good))
        if span:
            add("goodput", good.sum() / span, "request/s", "higher")
    for name, spent in (
        ("calls", outcome.all_calls),
        ("prompt_tokens", outcome.prompt_tokens),
        ("output_tokens", outcome.all_tokens),
    ):
        if len(outcome):
            unit = f"{name.removesuffix('s').rpartition('_')[2]}/request"
            add(f"{name}_per_request", spent.mean(), unit, "lower", samples=len(outcome))
    devices = sum(client.site.devices for client in shown.clients)
    joules = total_joules(shown.energy)
    if joules is not None and tokens:
        add("energy_per_output_token_j", joules / tokens, "J/token", "lower")
        add("energy_j", joules, "J", "lower")
    if params.dollars_per_device_hour is not None and tokens and span:
        dollars = params.dollars_per_device_hour * devices * span / 3600
        add("output_tokens_per_dollar", tokens / dollars if dollars else 0, "token/USD", "higher")
        add("cost_usd", dollars, "USD", "lower")
    add("preemptions", sum(client.preemptions for client in shown.clients), "1", "lower")
    beyond = sum(client.beyond for client in shown.clients)
    share = beyond / shown.tape.iterations if shown.tape.iterations else 0.0
    add("extrapolated_steps", share, "fraction", "lower", note="Beyond the step model's data.")
    add("failed_requests", (~finished).sum(), "request", "lower")
    add("censored_requests", outcome.censored, "request", "lower", note="Open at the end.")
    prompts = int(outcome.prompt_tokens[finished].sum())
    if prompts:
        cached = int(outcome.cached_tokens[finished].sum())
        add("cached_prompt_tokens", cached / prompts, "fraction", "higher")
    return made


def meets(outcome: Outcome, slo: Mapping[str, Objectives]) -> Any:
    """Which requests were answered within all objectives of their class ("default" for those whose
    class has none of its own). A request of one token has no TPOT to miss.
    """
    found = outcome.latencies()
    good = outcome.finished.copy()
    nothing = Objectives()
    classes = outcome.classes or [None] * len(outcome)
    fallback = slo.get("default", nothing)
    for name in dict.fromkeys(classes):
        objectives = slo.get(name, fallback) if name is not None else fallback
        rows = np.array([one == name for one in classes], dtype=bool)
        for latency, limit in (
            ("ttft", objectives.ttft_s), ("tpot", objectives.tpot_s), ("e2e", objectives.e2e_s)
        ):  # fmt: skip
            if limit is not None:
                good &= ~(rows & (found[latency] > limit))
    return good


def tables(shown: Shown) -> list[Table]:
    """Where time and energy went, who did what, and the first requests."""
    tokens = int(shown.outcome.all_tokens[shown.outcome.finished].sum())
    energy = energy_table(shown.energy, tokens)
    found = [breakdown_table(shown), energy, client_table(shown), request_table(shown)]
    return [one for one in found if one is not None]


def breakdown_table(shown: Shown) -> Table:
    """Mean and percentiles of each part of the end-to-end time."""
    counted = shown.counted
    whole = float((shown.outcome.last_ns - shown.outcome.arrival_ns)[counted].sum())
    rows: list[tuple[Cell, ...]] = []
    for name, spent in shown.outcome.breakdown.items():
        seconds = spent[counted] / 1e9
        if len(seconds) and seconds.any():
            rows.append(
                (
                    name, float(seconds.mean()), percentile(seconds, 50), percentile(seconds, 99),
                    float(spent[counted].sum() / whole),
                )
            )  # fmt: skip
    modelled = [("mean", "s"), ("p50", "s"), ("p99", "s"), ("share", "fraction")]
    return Table(
        name="breakdown",
        title="Where the end-to-end time goes",
        columns=(
            Column(name="part"),
            *(Column(name=name, unit=unit, provenance="modelled") for name, unit in modelled),
        ),
        rows=tuple(rows),
        note="For each request the parts add up to its end-to-end time exactly.",
    )


def client_table(shown: Shown) -> Table:
    """What each client did."""
    span = shown.outcome.span_s * 1e9
    rows = tuple(
        (
            client.name, client.iterations, client.busy_ns / span if span else 0.0,
            client.mean_batch, client.blocks.total if client.blocks.total < 1 << 49 else None,
            client.preemptions,
        )
        for client in shown.clients
    )  # fmt: skip
    return Table(
        name="clients",
        title="Clients",
        columns=(
            Column(name="client"),
            Column(name="iterations"),
            Column(name="busy", unit="fraction", provenance="modelled"),
            Column(name="mean decoding calls", provenance="modelled"),
            Column(name="KV blocks"),
            Column(name="preemptions"),
        ),
        rows=rows,
        note="KV blocks: empty where memory is no limit.",
    )


REQUEST_COLUMNS = (
    Column(name="request"),
    Column(name="arrival", unit="s"),
    Column(name="ttft", unit="s", provenance="modelled"),
    Column(name="tpot", unit="s", provenance="modelled"),
    Column(name="e2e", unit="s", provenance="modelled"),
    Column(name="prompt tokens", unit="token"),
    Column(name="output tokens", unit="token"),
    Column(name="calls"),
    Column(name="tokens of all calls", unit="token"),
    Column(name="cached tokens", unit="token"),
    Column(name="preemptions"),
    Column(name="status"),
)


def request_rows(outcome: Outcome, count: int | None = None) -> list[tuple[Cell, ...]]:
    """Rows of `REQUEST_COLUMNS`."""
    found, calls, made = outcome.latencies(), outcome.all_calls, outcome.all_tokens
    rows: list[tuple[Cell, ...]] = []
    for i in range(len(outcome) if count is None else min(count, len(outcome))):
        ttft, tpot = float(found["ttft"][i]), float(found["tpot"][i])
        ok = bool(outcome.finished[i])
        rows.append(
            (
                outcome.ids[i] if outcome.ids is not None else str(int(outcome.rows[i])),
                float(outcome.arrival_ns[i]) / 1e9,
                None if np.isnan(ttft) else ttft,
                None if np.isnan(tpot) else tpot,
                float(found["e2e"][i]) if ok else None,
                int(outcome.prompt_tokens[i]),
                int(outcome.output_tokens[i]),
                int(calls[i]),
                int(made[i]),
                int(outcome.cached_tokens[i]),
                int(outcome.preemptions[i]),
                "finished" if ok else "failed",
            )
        )
    return rows


def file_columns(outcome: Outcome) -> tuple[Column, ...]:
    """`REQUEST_COLUMNS` and the parts of the end-to-end time, which add up to it."""
    parts = [
        Column(name=f"part {name}", unit="s", provenance="modelled") for name in outcome.breakdown
    ]
    return (*REQUEST_COLUMNS, *parts)


def file_rows(outcome: Outcome) -> list[tuple[Cell, ...]]:
    """All requests in `file_columns`."""
    spent = [(nanoseconds / 1e9).tolist() for nanoseconds in outcome.breakdown.values()]
    parts = zip(*spent, strict=True) if spent else [()] * len(outcome)
    return [(*row, *more) for row, more in zip(request_rows(outcome), parts, strict=True)]


def request_table(shown: Shown) -> Table:
    """The first requests."""
    wanted, there = shown.params.table_rows, len(shown.outcome)
    note = "Times are from the request's arrival."
    if there > wanted:
        note += f" The first {wanted} of {there}; the file of requests has all of them."
    return Table(
        name="requests",
        title="Requests",
        columns=REQUEST_COLUMNS,
        rows=tuple(request_rows(shown.outcome, wanted)),
        note=note,
    )


def figures(shown: Shown) -> list[Figure]:
    """Distributions of latencies, the load over time, where time goes."""
    made = []
    common: dict[str, Any] = {"provenance": "modelled", "source": shown.source}
    panels = []
    shares = np.arange(101)
    for name, title in (("ttft", "TTFT"), ("e2e", "end to end")):
        values = shown.latency(name)
        if len(values):
            at = np.percentile(values, shares)
            panels.append(Series(label=title, x=_plain(at), y=_plain(shares / 100)))
    if panels:
        made.append(
            Figure(
                name="latencies",
                title="Share of requests within a time",
                x_label="seconds from arrival",
                x_scale="log",
                panels=(Panel(series=tuple(panels), y_label="share of requests"),),
                **common,
            )
        )
    timeline = _timeline(shown)
    if timeline is not None:
        made.append(timeline.replace(**common))
    rows = breakdown_table(shown).rows
    if rows:
        series = Series(
            label="mean", x=tuple(str(row[0]) for row in rows),
            y=tuple(float(row[1] or 0) for row in rows),
        )  # fmt: skip
        made.append(
            Figure(
                name="breakdown",
                title="Where the mean end-to-end time goes",
                x_label="",
                panels=(Panel(series=(series,), y_label="seconds", kind="bars"),),
                **common,
            )
        )
    return made


def _timeline(shown: Shown) -> Figure | None:
    """Calls that run and wait, and KV blocks in use, at evenly spaced instants."""
    columns = shown.tape.columns()
    if not len(columns["end_ns"]):
        return None
    at = np.linspace(columns["start_ns"].min(), columns["end_ns"].max(), TIMELINE_POINTS)
    sums = {name: np.zeros(len(at)) for name in ("decoding", "waiting", "kv_blocks")}
    for client in shown.clients:
        rows = columns["client"] == client.index
        ends = columns["end_ns"][rows]
        if not len(ends):
            continue
        last = np.searchsorted(ends, at, side="right") - 1
        for name, total in sums.items():
            values = columns[name][rows]
            total += np.where(last >= 0, values[np.maximum(last, 0)], 0)
    seconds = _plain(at / 1e9)
    blocks = sum(one.blocks.total for one in shown.clients if one.blocks.total < 1 << 49)

    def lines(*named: tuple[str, str]) -> tuple[Series, ...]:
        return tuple(Series(label=text, x=seconds, y=_plain(sums[name])) for name, text in named)

    panels = [
        Panel(series=lines(("decoding", "decoding"), ("waiting", "waiting")), y_label="calls")
    ]
    if blocks:
        sums["kv_blocks"] = sums["kv_blocks"] / blocks
        panels.append(Panel(series=lines(("kv_blocks", "in use")), y_label="share of KV blocks"))
    return Figure(
        name="timeline", title="Load over time", x_label="seconds", panels=tuple(panels),
        provenance="modelled", source=shown.source,
    )  # fmt: skip


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
