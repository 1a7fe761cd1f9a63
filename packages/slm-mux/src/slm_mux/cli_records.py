"""The commands that work on records: import, replay, search, scale, bench."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosslayer.errors import InputError

if TYPE_CHECKING:
    from slm_mux.records import Table
    from slm_mux.search import Correct

Records = Annotated[
    Path, typer.Argument(metavar="RECORDS", help="JSON lines, a model and question.")
]
Models = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Some of the models. Default: all.")
]
Extract = Annotated[str, typer.Option("--extractor", help="How answers are found.")]
Common = Annotated[bool, typer.Option("--common", help="Only questions that all models have.")]
Splits = Annotated[int, typer.Option(min=1, help="Splits into validation and test, and draws.")]
K = Annotated[int, typer.Option("-k", min=1, help="Samples of each model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Lambda = Annotated[float, typer.Option("--lambda", min=0, help="Weight of the contradiction.")]
CorrectOption = Annotated[
    str, typer.Option(metavar="RULE", help="Correct on a question: mode, any, all, or a number.")
]


def import_(
    source: Annotated[str, typer.Argument(metavar="FORMAT", help="champ or collect.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the records go.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="What collect wrote, a file a model."),
    ] = None,
) -> None:
    """Make records from CHAMP (fetched once) or from the released code's collect files."""
    from crosslayer.errors import nearest
    from crosslayer.progress import progress_for
    from slm_mux.importers import champ, champ_file, collect_format
    from slm_mux.records import write_rows

    if source == "champ":
        file = files[0] if files else champ_file(progress_for())
        number = write_rows(champ(file), out)
    elif source == "collect":
        if not files:
            raise InputError("import collect needs the files that collect wrote, after OUT")
        number = write_rows((row for file in files for row in collect_format(file)), out)
    else:
        raise InputError(f"no format {source!r}; {nearest(source, ('champ', 'collect'))}")
    print(f"{out}: {number} rows")


def replay(
    records: Records,
    k: K = 3,
    models: Models = None,
    splits: Splits = 40,
    extractor: Extract = "number",
    common: Common = False,
    as_json: Json = False,
) -> None:
    """Accuracy of SLM-MUX and every baseline on test questions, with intervals."""
    table = _table(records, extractor, models, common)
    print_rows(method_rows(table, k, splits), as_json)


def bench(
    records: Records,
    pools: Annotated[
        list[str] | None, typer.Option("--pool", metavar="A,B,...", help="A pool; may be repeated.")
    ] = None,
    ks: Annotated[str, typer.Option("--k", metavar="2,3,...", help="Samples.")] = "2,3,5,8",
    splits: Splits = 40,
    extractor: Extract = "number",
    common: Common = False,
    as_json: Json = False,
) -> None:
    """The table of `replay` for several pools and several k."""
    whole = _table(records, extractor, None, common)
    rows = []
    for pool in pools or [",".join(whole.models)]:
        table = whole.pool(_names(pool))
        for k in _numbers(ks):
            rows += [{"pool": pool, "k": k} | row for row in method_rows(table, k, splits)]
    print_rows(rows, as_json)


def search(
    records: Records,
    sizes: Annotated[str | None, typer.Option(metavar="2,3", help="Default: all.")] = None,
    lam: Lambda = 1.0,
    correct: CorrectOption = "mode",
    normalise: Annotated[str, typer.Option(help="Contradictions over all or union.")] = "all",
    costs: Annotated[
        list[str] | None, typer.Option("--cost", metavar="MODEL=X", help="Of a model. Default: 1.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="The most a subset may cost.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Subsets shown.")] = 10,
    extractor: Extract = "number",
    common: Common = False,
    as_json: Json = False,
) -> None:
    """Subsets of the models by objective. Search on validation questions only: its numbers on the
    questions that it chose by are not what to expect of others.
    """
    from slm_mux.search import bits
    from slm_mux.search import search as searching

    if normalise not in ("all", "union"):
        raise InputError(f"--normalise {normalise}: all or union")
    table = _table(records, extractor, None, common)
    priced: dict[str, float] = {}
    for one in costs or []:
        model, equals, value = one.rpartition("=")
        try:
            priced[model] = float(value) if equals else math.nan
        except ValueError:
            priced[model] = math.nan
        if not 0 <= priced[model] < math.inf:
            raise InputError(f"--cost {one}: needs MODEL=NUMBER, 0 or more")
        table.pool([model])
    flags = bits(table, range(len(table.questions)), _correct(correct))
    found = searching(
        flags, sizes=_numbers(sizes) if sizes else None, lam=lam,
        normalise="all" if normalise == "all" else "union", costs=priced, budget=budget, top=top,
        resamples=2000,
    )  # fmt: skip
    rows = []
    for subset in found:
        low, high = subset.interval or (0.0, 0.0)
        rows.append(
            {
                "models": " + ".join(subset.models), "objective": round(subset.objective, 4),
                "low": round(low, 4), "high": round(high, 4), "union": round(subset.union, 4),
                "contradiction": round(subset.contradiction, 4), "cost": subset.cost,
            }
        )  # fmt: skip
    print_rows(rows, as_json)


def scale(
    records: Records,
    k: K = 3,
    splits: Splits = 40,
    lam: Lambda = 1.0,
    correct: CorrectOption = "mode",
    extractor: Extract = "number",
    common: Common = False,
    as_json: Json = False,
) -> None:
    """Accuracy with more models (each size's searched subset) and with more samples."""
    from slm_mux.scale import more_models, more_samples

    table = _table(records, extractor, None, common)
    steps = more_models(table, k, range(splits), lam=lam, correct=_correct(correct))
    steps += more_samples(table, range(1, table.samples + 1), range(splits))
    rows = [
        {
            "at": step.label, "accuracy": round(step.accuracy, 4),
            "low": round(step.interval[0], 4), "high": round(step.interval[1], 4),
            "union": round(step.union, 4),
        }
        for step in steps
    ]  # fmt: skip
    print_rows(rows, as_json)


def method_rows(table: Table, k: int, splits: int, extra: Any = None) -> list[dict[str, Any]]:
    """A row a method: accuracy, its interval, and its difference to SLM-MUX, paired."""
    from slm_mux.replay import MUX
    from slm_mux.replay import replay as replaying

    outcome = replaying(table, k, range(splits), extra=extra)
    rows: list[dict[str, Any]] = []
    for method in outcome.right:
        low, high = outcome.interval(method)
        row: dict[str, Any] = {
            "method": method, "accuracy": round(outcome.accuracy(method), 4),
            "low": round(low, 4), "high": round(high, 4),
        }  # fmt: skip
        if method != MUX:
            least, most = outcome.interval(method, MUX)
            difference = outcome.accuracy(method) - outcome.accuracy(MUX)
            row |= {
                "to slm-mux": round(difference, 4), "from": round(least, 4), "to": round(most, 4)
            }  # fmt: skip
        rows.append(row)
    return rows


def _table(records: Path, extractor: str, models: str | None, common: bool) -> Table:
    from slm_mux.extract import alone
    from slm_mux.extract import extractor as extracting
    from slm_mux.records import read_rows, table

    rows = read_rows(records)
    made = table(rows, extracting(extractor), alone=alone(extractor), common=common)
    return made.pool(_names(models)) if models else made


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise InputError(f"{text!r} is no list of whole numbers, such as 2,3,5") from None


def _correct(text: str) -> Correct:
    if text.isdecimal():
        return int(text)
    rules: dict[str, Correct] = {"mode": "mode", "any": "any", "all": "all"}
    if text in rules:
        return rules[text]
    raise InputError(f"--correct {text}: mode, any, all, or a number of samples")


def print_rows(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Rows as JSON or as aligned columns."""
    if as_json:
        print(json.dumps(list(rows), ensure_ascii=False, indent=1))
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[str(row.get(name, "")) for name in columns] for row in rows]
    width = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    for line in (columns, *shown):
        cells = zip(line, width, strict=True)
        sys.stdout.write("  ".join(f"{cell:<{size}}" for cell, size in cells).rstrip() + "\n")
