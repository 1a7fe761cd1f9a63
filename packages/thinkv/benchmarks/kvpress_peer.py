"""kvpress (NVIDIA, its own environment) on the models and traces of workload C.

kvpress 0.5.5 wants transformers below 5.3, so this script makes a virtual environment under
--folder, installs the pins below there and runs itself again in it. Traces are decoded token by
token, all of a model at once, under DecodingPress, which compresses every 16 tokens down to what
fits the bytes: keys, values and the hidden states that it keeps, counted at 16 bits (its tensors
here are float32). `python benchmarks/kvpress_peer.py` after thoughts.py; thoughts.py then shows
these cells too.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import venv
from pathlib import Path
from typing import Any

PINS = ("torch==2.13.0", "transformers==5.2.0", "kvpress==0.5.5")
EVERY = 16  # tokens between compressions, and hidden states that are kept
SCORERS = ("knorm", "keydiff", "tova", "snapkv")


def press(name: str, tokens: int) -> Any:
    """DecodingPress over one of kvpress's scorers. KeyDiff and Knorm look at keys alone."""
    from kvpress import DecodingPress, KeyDiffPress, KnormPress, SnapKVPress, TOVAPress

    scorer = {
        "knorm": KnormPress,
        "keydiff": KeyDiffPress,
        "tova": TOVAPress,
        "snapkv": lambda: SnapKVPress(window_size=EVERY // 2),
    }[name]()
    return DecodingPress(scorer, EVERY, tokens, EVERY)


def run(net: Any, name: str, share: float, seed: int, traces: int) -> dict[str, float]:
    """One scorer on one model's traces, as thoughts.py counts."""
    import numpy as np
    import torch
    from traces import END, LIMIT, trace
    from transformers import DynamicCache

    rng = np.random.default_rng(9000 + seed)
    chosen = [trace(rng) for _ in range(traces)]
    ids = torch.tensor([one.tokens for one in chosen])
    config = net.config
    token = 4 * config.num_key_value_heads * config.head_dim
    whole = token * (ids.shape[1] + 1 + len(chosen[0].questions[0][1]))
    fixed = EVERY * 2 * config.hidden_size
    budget = int((share * whole - fixed) // token)
    used = press(name, budget)
    cache, peak = DynamicCache(config=config), 0

    def step(new: Any, at: int, into: Any) -> Any:
        nonlocal peak
        where = torch.tensor([at])
        kwargs = {"cache_position": where, "position_ids": where[None].expand(len(new), 1)}
        logits = net(input_ids=new, past_key_values=into, **kwargs).logits[:, -1]
        peak = max(peak, int(into.layers[0].keys.shape[2]) * token + fixed)
        return logits.argmax(-1)

    out: dict[str, list[float]] = {"final": [], "right": [], "length": []}
    with used(net), torch.inference_mode():
        for at in range(ids.shape[1]):
            step(ids[:, at : at + 1], at, cache)
        state = (used.layer_step_counts, used.hidden_states_buffer)
        for question in range(len(chosen[0].questions)):
            used.layer_step_counts, used.hidden_states_buffer = copy.deepcopy(state)
            own = copy.deepcopy(cache)
            asked = [one.questions[question] for one in chosen]
            new = torch.tensor([[first] for first, _ in asked])
            said: list[list[int]] = [[] for _ in asked]
            for n in range(LIMIT * len(asked[0][1])):
                found = step(new, ids.shape[1] + n, own)
                for reply, token_id in zip(said, found.tolist(), strict=True):
                    if END not in reply:
                        reply.append(token_id)
                if all(END in reply for reply in said):
                    break
                new = found[:, None]
            for reply, (_, right) in zip(said, asked, strict=True):
                out["final"].append(reply[-2:] == right[-2:])
                same = sum(a == b for a, b in zip(reply, right, strict=False))
                out["right"].append(same / len(right))
                out["length"].append(len(reply))
    means = {key: float(np.mean(values)) for key, values in out.items()}
    return means | {"share": peak / whole, "budget": budget}


def inside(asked: argparse.Namespace) -> None:
    """Run every cell that is missing, in the environment that has kvpress."""
    import torch
    from traces import load

    torch.set_num_threads(1)
    file = asked.folder / f"thoughts-{asked.traces}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    known = {tuple(json.loads(line)["key"]) for line in lines}
    for seed in range(asked.first, asked.first + asked.seeds):
        net = load(asked.folder, seed)
        for share in asked.shares:
            for name in SCORERS:
                key = (f"kvpress {name}", share, seed)
                if key in known:
                    continue
                value = run(net, name, share, seed, asked.traces)
                with file.open("a") as out:
                    out.write(json.dumps({"key": key, "value": value}) + "\n")
                print(key, value, flush=True)


def main() -> None:
    """Make the environment where there is none, and run in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--traces", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.1])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--inside", action="store_true", help="this is the environment")
    asked = parser.parse_args()
    if asked.inside:
        inside(asked)
        return
    if asked.folder is None:
        from crosslayer.places import cache_dir

        asked.folder = cache_dir("thinkv", "benchmarks")
    home = asked.folder / "kvpress-env"
    python = home / "bin" / "python"
    if not (home / "made").exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-compile", *PINS], check=True)
        (home / "made").touch()
    shares = [str(share) for share in asked.shares]
    same = ["--seeds", str(asked.seeds), "--first", str(asked.first), "--shares", *shares]
    place = ["--traces", str(asked.traces), "--folder", str(asked.folder.absolute())]
    subprocess.run([python, __file__, "--inside", *same, *place], check=True)


if __name__ == "__main__":
    main()
