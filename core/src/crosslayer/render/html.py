"""One HTML file that shows a run: no request leaves it, no script runs, all text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from crosslayer.contracts.report import Provenance, Report
from crosslayer.render.tables import number_rows, pairs_and_rest, table_view
from crosslayer.render.values import format_value, plain

ABOVE = ("wall_clock_tables",)  # facts of a run that the page shows as tables already
UNIT_ENDINGS = {"_s": "s", "_bytes": "bytes"}

if TYPE_CHECKING:
    from markupsafe import Markup

# In the order in which the page shows them: what ran here first.
MEANING: dict[Provenance, str] = {
    "measured": "ran on the machine that wrote this page",
    "recorded": "somebody’s real run or outputs; the source names the data",
    "modelled": "came out of a model, which the source names",
    "published": "from a paper, which the source cites",
}


def render(
    report: Report,
    *,
    run_info: Mapping[str, Any] | None = None,
    pipeline_text: str = "",
    lock_text: str = "",
) -> str:
    """The report as a page: the same text for the same arguments.

    run_info: facts of the run and its machine for the foot of the page, nested mappings and lists
    of plain values. pipeline_text: the pipeline file as written. lock_text: the same with every
    default filled in.
    """
    from crosslayer.render.figures import to_svg

    pairs, rest = pairs_and_rest(report.metrics)
    return fill(
        "report.html.j2",
        report=report,
        pairs=pairs,
        groups=_grouped(number_rows(rest)),
        tables=[table_view(table) for table in report.tables],
        figures=[(figure, drawn(to_svg(figure, caption=False))) for figure in report.figures],
        legend=[(name, MEANING[name]) for name in MEANING if name in _used(report)],
        wall_clock=any(metric.wall_clock for metric in report.metrics)
        or any(table.wall_clock for table in report.tables),
        pipeline_text=pipeline_text,
        lock_text=lock_text,
        facts=list(_facts({k: v for k, v in (run_info or {}).items() if k not in ABOVE})),
    )


def fill(template: str, **values: Any) -> str:
    """A template of this folder with the page's style and the values, all text escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def without_controls(value: Any) -> Any:
        return plain(value) if type(value) is str else value

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=without_controls,
    )
    style = Markup(_part("style.css"))
    page: str = environment.from_string(_part(template)).render(style=style, **values)
    return page


def _part(name: str) -> str:
    return (resources.files("crosslayer.render") / name).read_text(encoding="utf-8")


def drawn(svg: str) -> Markup:
    """Our own renderer's SVG, whose text is escaped already."""
    from markupsafe import Markup

    return Markup(svg)


def _grouped(rows: list[Any]) -> list[list[Any]]:
    """The rows of each provenance, those that ran here first."""
    groups = [[row for row in rows if row.number.provenance == name] for name in MEANING]
    return [group for group in groups if group]


def _used(report: Report) -> frozenset[str]:
    """Every provenance that occurs on the page."""
    used: set[str] = {metric.provenance for metric in report.metrics}
    used |= {figure.provenance for figure in report.figures}
    columns = [column for table in report.tables for column in table.columns]
    return frozenset(used | {column.provenance for column in columns if column.provenance})


def _facts(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of each fact; the names of nested ones are joined."""
    for key, inner in value.items():
        name = f"{above} {_spoken(key)}".strip()
        if isinstance(inner, Mapping):
            yield from _facts(inner, name)
        elif isinstance(inner, (list, tuple)) and any(isinstance(part, Mapping) for part in inner):
            for number, part in enumerate(inner, start=1):
                yield f"{name} {number}", _fact(key, part)
        else:
            yield name, _fact(key, inner)


def _fact(key: str, value: Any) -> str:
    """A fact as text; `_s` and `_bytes` at the end of its key are its unit."""
    if isinstance(value, Mapping):
        parts = [(inner, _fact(inner, v)) for inner, v in value.items()]
        return ", ".join(text if k == "name" else f"{_spoken(k)} {text}" for k, text in parts)
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(key, part) for part in value) or "none"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        for ending, unit in UNIT_ENDINGS.items():
            if key.endswith(ending):
                return format_value(value, unit)
    return str(value)


def _spoken(key: str) -> str:
    key = str(key)
    for ending in UNIT_ENDINGS:
        key = key.removesuffix(ending)
    return key.replace("_", " ")
