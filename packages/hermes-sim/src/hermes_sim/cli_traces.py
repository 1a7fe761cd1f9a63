"""What `hermes-sim traces` prints."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from crosslayer.cli_listing import print_json
from crosslayer.traces import describe, write_trace
from hermes_sim.prefix_replay import replay_prefixes
from hermes_sim.readers.traces import read_any


def traces(
    file: Path, format: str | None, cache_blocks: list[int], out: Path | None, as_json: bool
) -> None:
    """Describe a trace; with prefixes, what caches of some sizes would hit."""
    trace, name = read_any(file, format)
    found = describe(trace)
    capacities: list[int | None] = [None, *cache_blocks] if trace.prefix is not None else []
    hits = [replay_prefixes(trace, capacity) for capacity in capacities]
    if cache_blocks and trace.prefix is None:
        print(f"{file}: the trace has no prefix hashes to replay", file=sys.stderr)
    if out is not None:
        write_trace(trace, out, "crosslayer")
    if as_json:
        print_json(
            {"file": str(file), "format": name} | asdict(found)
            | {"prefix_cache": [asdict(one) | {"hit_rate": one.hit_rate} for one in hits]}
        )  # fmt: skip
        return
    print(f"{file} ({name})")
    print(f"  requests        {found.requests:,} over {found.span_s or 0:,.1f} s")
    for label, lengths in (("prompt", found.prompt_tokens), ("output", found.output_tokens)):
        if lengths is not None:
            print(f"  {label} tokens   mean {lengths.mean:,.1f}, p99 {lengths.p99:,}")
    for one in hits:
        size = "no limit" if one.capacity is None else f"{one.capacity:,} blocks"
        print(
            f"  LRU, {size}: {one.block_hits:,} of {one.blocks:,} blocks hit"
            f" ({one.hit_rate:.4f}), {one.prefix_hits:,} as a whole prefix"
        )
    if out is not None:
        print(f"  written         {out}")
