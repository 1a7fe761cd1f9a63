"""Workloads A and B on SmolLM2-135M: loss on long real text, and recall of keys by distance, at
equal live bytes.

Text is fed in pieces of 16 tokens, which is exact. Sentences that name a code are put into it at
several distances before its end; after the text each code is asked for, and the log-probability of
its digits is what is recalled. A seed chooses articles, codes and random evictions. `python
benchmarks/text_and_recall.py [--tokens 2048] [--seeds 3] [--shares 0.2 0.1]` goes on where it was
interrupted and prints the README's table. Needs the assets smollm2-135m and wikipedia-sample.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from results import Results, folder_argument, shown, table

from crosslayer.models.smollm2 import smollm2
from crosslayer.texts import articles
from thinkv.cache import MethodCache, attached
from thinkv.measure import read
from thinkv.methods import full_layer_bytes, method, shape_of

METHODS = ("full", "kivi4", "kivi2", "tbq")  # hold what they hold
BUDGETED = ("window", "random", "h2o", "snapkv", "rkv", "tbe", "thinkv")
WHO = ("Martha", "Oscar", "Helen", "Victor", "Nora", "Simon")


def stream(tokenizer: Any, tokens: int, seed: int) -> tuple[Any, Any, list[dict[str, Any]]]:
    """(ids, mask of text tokens, questions): text with codes in it, then a question for each."""
    rng = np.random.default_rng(seed)
    chosen = articles("wikipedia-sample", "evaluation")
    text: list[int] = []
    for i in rng.permutation(len(chosen)):
        text += tokenizer(chosen[i].text + "\n\n", add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        if len(text) >= tokens:
            break
    distances = [d for d in (96, 192, 384, 768, 1536, 3072) if d < tokens - 32]
    codes = [" ".join(str(d) for d in rng.integers(0, 10, 4)) for _ in distances]
    ids, mask, end = [], [], tokens
    cuts = sorted(zip(distances, WHO, codes, strict=False), reverse=True)
    at = 0
    for distance, who, code in cuts:
        piece = text[at : end - distance]
        ids += piece
        mask += [True] * len(piece)
        at = end - distance
        fact = tokenizer(f"\nThe secret code of {who} is {code}.\n", add_special_tokens=False)
        ids += fact["input_ids"]
        mask += [False] * len(fact["input_ids"])
    ids += text[at:end]
    mask += [True] * (end - at)
    questions = []
    for distance, who, code in sorted(cuts):
        lead = tokenizer(f"\nThe secret code of {who} is", add_special_tokens=False)["input_ids"]
        digits = tokenizer(f" {code}", add_special_tokens=False)["input_ids"]
        questions.append({"distance": distance, "at": len(ids) + len(lead), "digits": len(digits)})
        ids += lead + digits
        mask += [False] * (len(lead) + len(digits))
    return torch.tensor(ids), torch.tensor(mask), questions


def run(live: Any, name: str, share: float, seed: int, tokens: int) -> dict[str, Any]:
    """One method on one seed's text."""
    ids, mask, questions = stream(live.tokenizer, tokens, seed)
    module = live.module
    shape = shape_of(module.config, 0, len(ids))
    chosen = method(name, shape, share * full_layer_bytes(shape), seed)
    start = time.perf_counter()
    with attached(module):
        cache, series = read(live, ids, lambda: MethodCache(module.config, chosen.make_row))
    nll = series.nll.double()
    of_text = mask[1:].clone()
    half = of_text.clone()
    half[: len(ids) // 2] = False
    full = full_layer_bytes(shape) * module.config.num_hidden_layers
    recall = {
        str(q["distance"]): -float(nll[q["at"] - 1 : q["at"] - 1 + q["digits"]].sum())
        for q in questions
    }
    return {
        "nll": float(nll[of_text].mean()),
        "nll_second_half": float(nll[half].mean()),
        "bytes": series.bytes_[-1],
        "peak_bytes": max(series.bytes_),
        "share": max(series.bytes_) / full,
        "alive": cache.rows[0].physical,
        "budget": chosen.budget_tokens,
        "recall": recall,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Run every cell and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.1])
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *BUDGETED])
    folder_argument(parser)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    live = smollm2().live
    results = Results(asked.folder / f"text-{asked.tokens}.jsonl")
    cells = [(name, 1.0) for name in METHODS if name in asked.methods or name == "full"]
    budgeted = [name for name in BUDGETED if name in asked.methods]
    cells += [(name, share) for share in asked.shares for name in budgeted]
    for seed in range(asked.seeds):
        for name, share in cells:
            results.cell(
                (name, share, seed),
                lambda n=name, s=share, i=seed: run(live, n, s, i, asked.tokens),
            )
    show(results, cells, range(asked.seeds))


def show(results: Results, cells: list[tuple[str, float]], seeds: Any) -> None:
    """Print the table of all cells; losses are above the full cache of the same seed."""
    distances = sorted(results.rows["full", 1.0, seeds[0]]["recall"], key=int)
    rows = []
    for name, share in cells:
        found = [results.rows[name, share, seed] for seed in seeds]
        full = [results.rows["full", 1.0, seed] for seed in seeds]
        above = [
            a["nll_second_half"] - b["nll_second_half"] for a, b in zip(found, full, strict=True)
        ]
        rows.append(
            [
                name,
                f"{np.mean([one['share'] for one in found]):.3f}",
                f"{np.mean([one['alive'] for one in found]):.0f}",
                "" if name == "full" else shown(above),
                *(shown([one["recall"][at] for one in found], 1) for at in distances),
            ]
        )
    head = [
        "method",
        "peak bytes / fp16 full",
        "tokens alive",
        "NLL above full, 2nd half",
        *(f"recall at {at} (log p)" for at in distances),
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
