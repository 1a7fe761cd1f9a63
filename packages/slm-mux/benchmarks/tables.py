"""The tables that recorded answers and live models share, in Markdown.

A method's cell: its accuracy, then the difference to SLM-MUX in points with its 95 % interval
(bootstrap over questions, paired), bold where that excludes nought.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from slm_mux.ablations import attribution, raw, reliability, variants
from slm_mux.records import Table
from slm_mux.replay import MUX, ORACLE, Outcome, replay
from slm_mux.scale import more_models, objective_against_accuracy

Pools = Mapping[str, Sequence[str]]
Outcomes = dict[tuple[str, int], Outcome]  # by pool and k
Discuss = Callable[[str, Outcome, range], Outcome]  # adds methods of its own to a pool's outcome
KS = range(2, 9)
LAMBDAS = (0.0, 0.5, 1.0, 2.0)
EQUAL = "best, SC of nk"


def named(outcome: Outcome, k: int) -> dict[str, str | None]:
    """The columns, and by what name the outcome has them; None where it has not."""
    equal = [name for name in outcome.right if "nk=" in name]
    return {
        "best single sample": "best single sample",
        "best, SC of k": f"best, self-consistency of k={k}",
        EQUAL: equal[0] if equal else None,
        "pooled vote": "pooled vote",
        "weighted vote": "accuracy-weighted vote",
    }


def methods(
    whole: Table, pools: Pools, seeds: range, discuss: Discuss | None = None,
    discussions: Sequence[str] = (),
) -> Outcomes:  # fmt: skip
    """Pools x k x methods; the outcomes, by pool and k."""
    found: Outcomes = {}
    for pool, members in pools.items():
        for k in KS:
            outcome = replay(whole.pool(members), k, seeds)
            outcome = discuss(pool, outcome, seeds) if discuss else outcome
            columns = named(outcome, k) | {name: name for name in discussions}
            if not found:
                print(f"| pool | k | SLM-MUX | {' | '.join(columns)} | union |")
                print("|---" * (len(columns) + 4) + "|")
            found[pool, k] = outcome
            cells = [against(outcome, name) for name in columns.values()]
            own = f"{outcome.accuracy(MUX):.1%} {shown(outcome.interval(MUX))}"
            union = f"{outcome.accuracy(ORACLE):.1%}"
            print(f"| {pool} | {k} | {own} | {' | '.join(cells)} | {union} |", flush=True)
    print()
    return found


def against(outcome: Outcome, name: str | None) -> str:
    """A method's accuracy, and its difference to SLM-MUX in points with the interval."""
    if name is None:
        return "not recorded"
    low, high = outcome.interval(name, MUX)
    difference = outcome.accuracy(name) - outcome.accuracy(MUX)
    mark = "**" if low > 0 or high < 0 else ""
    cell = f"{difference * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]"
    return f"{outcome.accuracy(name):.1%}, {mark}{cell}{mark}"


def shown(interval: tuple[float, float]) -> str:
    """An interval in percent."""
    return f"[{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]"


def ablations(whole: Table, others: Mapping[str, Table], pools: Pools, seeds: range) -> None:
    """What one change costs, in points against SLM-MUX. others: the same samples read otherwise."""
    names, tables = list(variants()), {"answers compared as written": raw(whole), **others}
    print(f"| pool | k | {' | '.join([*names, *tables])} |")
    print("|---" * (len(names) + len(tables) + 2) + "|")
    for pool, members in pools.items():
        for k in (2, 3, 8):
            outcome = replay(whole.pool(members), k, seeds, extra=variants())
            cells = [against(outcome, name) for name in names]
            for other in tables.values():
                changed = replay(other.pool(members), k, seeds)
                cells.append(against(with_other(outcome, changed), "changed"))
            print(f"| {pool} | {k} | {' | '.join(cells)} |", flush=True)
    print()


def with_other(outcome: Outcome, changed: Outcome) -> Outcome:
    """SLM-MUX of two ways to read answers, on the same draws, paired."""
    return Outcome(
        outcome.questions,
        {MUX: outcome.right[MUX], "changed": changed.right[MUX]},
        {MUX: outcome.asked[MUX], "changed": changed.asked[MUX]},
    )


def reliabilities(whole: Table) -> None:
    """Right answers by how many of 8 samples agree."""
    print("| model | " + " | ".join(f"{j} of 8" for j in range(1, 9)) + " |")
    print("|---" * 9 + "|")
    for model, counts in reliability(whole, 8).items():
        cells = [f"{right}/{n}" if n else "" for _, n, right in counts[1:]]
        print(f"| {model} | {' | '.join(cells)} |")
    print()


def attributions(whole: Table, pools: Pools, seeds: range) -> None:
    """Whose answer was taken."""
    for pool, members in pools.items():
        shares = attribution(whole.pool(members), 3, seeds)
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        print(f"- whose answer, {pool}, k = 3: {told}")
    print()


def searches(whole: Table, seeds: range) -> None:
    """Each size's best subset; objective against realised accuracy."""
    print("| models | SLM-MUX at k=3 | union |\n|---|---|---|")
    for step in more_models(whole, 3, seeds):
        print(f"| {step.label} | {step.accuracy:.1%} {shown(step.interval)} | {step.union:.1%} |")
    print("\n| correct | lambda | rank correlation | accuracy of the chosen subset |")
    print("|---|---|---|---|")
    for correct in ("mode", "all", "any"):
        curve = objective_against_accuracy(whole, 3, seeds, LAMBDAS, correct)
        for lam, (rank, reached) in curve.items():
            print(f"| {correct} | {lam} | {rank:+.2f} | {reached:.1%} |", flush=True)
    print()
