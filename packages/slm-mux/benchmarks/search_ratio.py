"""All 65,535 subsets of 16 models on 500 questions: bit sets against plain Python loops.

`python benchmarks/search_ratio.py [--models 16] [--questions 500]` prints the ratio of their CPU
times in this process and fails unless every objective is equal. Flags are drawn from a seed: the
work does not depend on what they say. Two loops: over questions, as written in the reference, and
over Python integers that hold a bit a question.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from slm_mux.search import Bits, objectives, reference, search


def main() -> None:
    """Print the CPU times and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--questions", type=int, default=500)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    correct = rng.random((asked.models, asked.questions)) < 0.5
    wrong = ~correct & (rng.random(correct.shape) < 0.4)
    known = Bits(tuple(f"m{i}" for i in range(asked.models)), correct, wrong)

    fast_s, values = timed(lambda: objectives(known), 5)
    search_s, best = timed(lambda: search(known, top=10), 5)
    loop_s, loops = timed(lambda: dict(reference(known)), 1)
    int_s, integers = timed(lambda: dict(by_integers(known)), 1)
    for members, value in loops.items():
        mask = sum(1 << m for m in members)
        assert abs(values[mask] - value) < 1e-12 and abs(integers[members] - value) < 1e-12
    assert [one.objective for one in best] == sorted(values.tolist(), reverse=True)[:10]
    print(f"{len(loops):,} subsets of {asked.models} models, {asked.questions} questions; equal")
    print(f"bit sets in NumPy        {fast_s:9.4f} s CPU (best of 5)")
    print(f"the same, ten best ranked{search_s:9.4f} s CPU (best of 5)")
    print(f"loops over questions     {loop_s:9.4f} s CPU, ratio {loop_s / fast_s:,.0f}")
    print(f"loops, Python integers   {int_s:9.4f} s CPU, ratio {int_s / fast_s:,.1f}")


def timed(work, times):  # type: ignore[no-untyped-def]
    """(least CPU seconds, result)."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def by_integers(known: Bits):  # type: ignore[no-untyped-def]
    """(members, objective) of every subset with a Python integer a model."""
    questions = known.correct.shape[1]

    def packed(flags: np.ndarray) -> list[int]:
        return [int("".join("1" if flag else "0" for flag in row), 2) for row in flags]

    correct, wrong = packed(known.correct), packed(known.wrong)
    for size in range(1, len(correct) + 1):
        for members in itertools.combinations(range(len(correct)), size):
            union = sure = 0
            for m in members:
                union |= correct[m]
                sure |= wrong[m]
            yield members, (union.bit_count() - (union & sure).bit_count()) / questions


if __name__ == "__main__":
    main()
