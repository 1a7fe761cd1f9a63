"""Recorded times of real GPUs against the roofline alone; nothing is tuned on them.

    python core/benchmarks/anchors.py --data DIR [--write]

DIR holds `vllm-rtx4090-llama31-8b` (the RTX 4090 profile and run of LLMServingSim) and `splitwise`
(perf_model.csv of Splitwise). --write puts the tables into the README beside this file. Without
--data there is nothing to compare with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import rtx4090
import splitwise
from readme import markdown_table, write_section
from rtx4090 import Anchor

PARTS = ("vllm-rtx4090-llama31-8b", "splitwise")
SHOWN = ((1, 512), (1, 8192), (32, 512), (64, 512))  # (batch, prompt) of the detailed rows


SPREAD = ("median error", "median absolute error", "lowest", "highest")


def percent(error: float) -> str:
    """A signed share, e.g. -12.3 %."""
    return f"{error:+.1%}".replace("%", " %")


def spread(errors: Sequence[float]) -> list[str]:
    """Median of the signed errors, median of their size, smallest and largest."""
    sizes = [abs(error) for error in errors]
    return [
        percent(median(errors)),
        f"{median(sizes):.1%}".replace("%", " %"),
        percent(min(errors)),
        percent(max(errors)),
    ]


def milliseconds(seconds: float) -> str:
    """Three digits or so."""
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def anchor_rows(anchors: Sequence[Anchor]) -> list[list[str]]:
    """Name, recorded, modelled, error."""
    return [
        [a.name, milliseconds(a.recorded), milliseconds(a.modelled), percent(a.error)]
        for a in anchors
    ]


def card_section(data: Path) -> str:
    """The RTX 4090: passes put together from kernels, then the run."""
    kernels = rtx4090.kernel_anchors(data)
    errors = spread([anchor.error for anchor in kernels])
    run = {
        "requests: time per output token": rtx4090.request_anchors(data),
        "undisturbed seconds: time of a step": rtx4090.decode_seconds(data),
    }
    rows = [
        [
            name,
            len(anchors),
            milliseconds(median(a.recorded for a in anchors)),
            milliseconds(median(a.modelled for a in anchors)),
            *spread([a.error for a in anchors]),
        ]
        for name, anchors in run.items()
    ]
    header = ("pass (tokens; sequences x keys)", "recorded", "modelled", "error")
    return f"""
### Llama-3.1-8B in bf16 on an RTX 4090: whole passes from recorded kernels

Times in ms. *recorded*: the kernel profile, vLLM 0.19, summed over 32 layers, without the sampler.
*modelled*: `roofline:rtx4090`.

{markdown_table(header, anchor_rows(kernels))}

Median error {errors[0]}, median absolute error {errors[1]}.

### The run of 300 requests on that card

Times in ms. *recorded*: `requests.jsonl`, (last - first token) / (tokens - 1), and
`timeseries.csv`, sequences / generated tokens of each second without prompts in which at most one
sequence came or went. *modelled*: a decode step of the sequences that ran then, each with an even
share of the cache in use.

{markdown_table(("what", "n", "recorded median", "modelled median", *SPREAD), rows)}"""


def servers_section(data: Path) -> str:
    """Llama-2-70B on A100 and H100: an overview over all settings, then some of them."""
    groups: dict[str, list[splitwise.Times]] = {}
    for entry in splitwise.anchors(data):
        devices = f"{entry.setting.hardware} x {entry.setting.tensor}"
        groups.setdefault(devices, []).append(entry)
    overview = [
        [
            f"{devices}, {what}",
            len(entries),
            *spread([getattr(e, f"{what}_error") for e in entries]),
        ]
        for devices, entries in groups.items()
        for what in ("token", "prompt")
    ]
    rows = [
        [
            f"{devices}, {entry.setting.batch} x {entry.setting.prompt}",
            milliseconds(entry.token),
            milliseconds(entry.token_modelled),
            percent(entry.token_error),
            milliseconds(entry.prompt),
            milliseconds(entry.prompt_modelled),
            percent(entry.prompt_error) + ("" if entry.is_one_batch else " (1)"),
        ]
        for devices, entries in groups.items()
        for entry in entries
        if (entry.setting.batch, entry.setting.prompt) in SHOWN
    ]
    header = (
        "devices, batch x prompt",
        "token",
        "modelled",
        "error",
        "prompt",
        "modelled",
        "error",
    )
    return f"""
### Llama-2-70B on A100 and H100, tensor parallel, 128 output tokens

*recorded*: `perf_model.csv`, medians of the repeats, no power cap. *modelled*: `roofline:a100-80g`
and `roofline:h100-80g`, collectives on the NVLink port. All settings (batches of 1 to 64 prompts of
512 tokens, single prompts of 128 to 8192):

{markdown_table(("devices, phase", "settings", *SPREAD), overview)}

Some of them, in ms:

{markdown_table(header, rows)}

(1) The recorded end-to-end time is more than twice prompt + tokens, and the prompt time is less
than the peak rate of the cards allows: these prompts did not run in one pass. They count in the
table above."""


def main() -> None:
    """Prints the tables; with --write also into the README."""
    parser = argparse.ArgumentParser(description="Recorded times against the roofline.")
    parser.add_argument("--data", type=Path, help=f"folder with {' and '.join(PARTS)}")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    if arguments.data is None:
        print(f"anchors: no --data DIR with {' and '.join(PARTS)}, nothing to compare with")
        return
    missing = [part for part in PARTS if not (arguments.data / part).is_dir()]
    if missing:
        parser.error(f"--data {arguments.data}: no folder {missing[0]!r} in it")
    card, servers = (arguments.data / part for part in PARTS)
    text = f"{card_section(card)}\n{servers_section(servers)}"
    print(text)
    if arguments.write:
        write_section("anchors", text)


if __name__ == "__main__":
    main()
