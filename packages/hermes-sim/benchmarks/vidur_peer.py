"""hermes against vidur (PyPI), the same trace and the same made-up profile, in CPU seconds.

`python benchmarks/vidur_peer.py [--data DIR] [--requests 5000] [--vidur PYTHON]`: without --vidur
an environment with vidur is made once in the user's cache (pip, about 1.5 GB). vidur fetches its
profiles from the network; here that is pointed at a folder of profiles in its format, made up by
this script, and both simulators read them. What vidur fits to them is timed apart and so is what
starts it. Both run with their metrics of requests and of batches on; neither draws or writes an
event trace. Lengths as in speed.py: those of --data, else lognormal.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from speed import trace_of

from crosslayer.contracts.requests import RequestTrace
from hermes_sim.batching import batching
from hermes_sim.readers.kernel_bundle import Shape
from hermes_sim.readers.vidur_profile import read_vidur_profile
from hermes_sim.replay import replay
from hermes_sim.step_models.protocol import StepModel

PEER = "vidur==0.0.26"
MODEL = {"n_embd": 4096, "n_kv_head": 8, "block_size": 16, "num_tensor_parallel_workers": 1}
NAME, LAYERS, BLOCKS, CALLS, CHUNK = "meta-llama/Llama-3-8B", 32, 20_000, 128, 512
LONGEST, GRAIN = 4096, 256  # of a call; vidur rounds contexts up to so many tokens
OPS = {
    "emb": 0.0, "input_layernorm": 0.005, "attn_pre_proj": 0.02, "attn_rope": 0.004,
    "attn_post_proj": 0.015, "post_attention_layernorm": 0.005, "mlp_up_proj": 0.06,
    "mlp_act": 0.01, "mlp_down_proj": 0.05, "add": 0.0,
}  # fmt: skip

CHILD = """
import json, sys, time
import huggingface_hub
folder = sys.argv.pop(1)

def local(repo_id, **_):
    if "predictions" in repo_id:
        raise OSError("offline")
    return folder

huggingface_hub.snapshot_download = local
from vidur.config import SimulationConfig
from vidur.simulator import Simulator
from vidur.utils.random import set_seeds

config = SimulationConfig.create_from_cli_args()
with open(folder + "/config.json", "w") as stream:
    replica = config.cluster_config.replica_config
    json.dump({"model": replica.model_name, "device_sku": replica.device,
               "sku": replica.network_device}, stream, default=str)
set_seeds(config.seed)
begin = time.process_time()
simulator = Simulator(config)
start = time.process_time()
simulator.run()
took = time.process_time() - start
print("RAN", start - begin, took, simulator._time, config.metrics_config.output_dir)
"""


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """A packed CSV file."""
    with lzma.open(path, "wt") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def profiles(folder: Path) -> None:
    """Kernels that grow linearly with what they work on, roughly those of an 8B model."""
    mlp = []
    shape = {"n_head": 32, "n_expanded_embd": 14336, "use_gated_mlp": True, "vocab_size": 128256}
    for tokens in (*range(1, CHUNK), *range(CHUNK, LONGEST + 1, 64)):
        times = {f"time_stats.{op}.median": at * (1 + tokens / 250) for op, at in OPS.items()}
        mlp.append(MODEL | shape | {"num_tokens": tokens} | times)
    write(folder / "mlp.csv.xz", mlp)
    attention = []
    base = MODEL | {"n_q_head": 32, "time_stats.attn_kv_cache_save.median": 0.003}
    for chunk in range(32, CHUNK + 1, 32):
        for cached in range(0, LONGEST + 1, GRAIN):
            ms = 0.01 + chunk * (cached + chunk / 2) * 2e-7
            attention.append(
                base | {"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": cached,
                        "is_prefill": True, "time_stats.attn_prefill.median": ms}
            )  # fmt: skip
    for calls in range(1, CALLS + 1):
        for cached in range(0, LONGEST + 1, GRAIN):
            ms = 0.01 + calls * cached * 2.5e-6
            attention.append(
                base | {"batch_size": calls, "prefill_chunk_size": 0, "kv_cache_size": cached,
                        "is_prefill": False, "time_stats.attn_decode.median": ms}
            )  # fmt: skip
    write(folder / "attention.csv.xz", attention)
    for name in ("all_reduce", "send_recv"):
        write(folder / f"{name}.csv.xz", [{"num_workers": 1, "devices_per_node": 1, "size": 1,
                                          "collective": name, "rank": 0}])  # fmt: skip


def environment() -> str:
    """The interpreter of vidur's own environment; makes it where it is not there yet."""
    place = user_cache_path("crosslayer") / "peers" / PEER.replace("==", "-")
    python = place / "bin" / "python"
    if not (place / "ready").is_file():
        print(f"making an environment with {PEER} in {place}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER], check=True)
        (place / "ready").touch()
    return str(python)


def vidur(python: str, folder: Path, trace: RequestTrace) -> tuple[float, float, float, float]:
    """(CPU seconds to fit and to start, of the run, mean E2E, last end), in vidur."""
    rows = ["Date,Time,PromptTokenCount,CompletionTokenCount"]
    columns = trace.arrival_ns / 1e9, trace.prompt_tokens, trace.output_tokens
    rows += [f"d,{at},{p},{o}" for at, p, o in zip(*columns, strict=True)]
    file = folder / "trace.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "child.py").write_text(CHILD, encoding="utf-8")
    settings = {
        "replica_config_model_name": NAME,
        "replica_config_tensor_parallel_size": 1,
        "replica_config_num_pipeline_stages": 1,
        "request_generator_config_type": "trace_replay",
        "trace_request_generator_config_trace_file": file,
        "trace_request_generator_config_date": "d",
        "trace_request_generator_config_max_tokens": LONGEST,
        "trace_request_generator_config_prefill_scale_factor": 1,  # its defaults change the trace
        "trace_request_generator_config_decode_scale_factor": 1,
        "trace_request_generator_config_time_scale_factor": 1,
        "replica_scheduler_config_type": "sarathi",
        "sarathi_scheduler_config_batch_size_cap": CALLS,
        "sarathi_scheduler_config_chunk_size": CHUNK,
        "cache_config_num_blocks": BLOCKS,
        "execution_time_predictor_config_type": "random_forrest",
    } | {
        f"random_forrest_execution_time_predictor_config_{name}": value
        for name, value in {
            "num_estimators": 10,
            "max_depth": 16,
            "min_samples_split": 2,
            "num_training_job_threads": 1,
            "k_fold_cv_splits": 2,
            "cache_dir": folder / "cache",
            # The default predicts, and packs, every length up to two million tokens.
            "prediction_max_tokens_per_request": 2 * LONGEST,
            "prediction_max_prefill_chunk_size": CHUNK,
            "prediction_max_batch_size": CALLS,
            "kv_cache_prediction_granularity": GRAIN,
            "attention_decode_batching_overhead_fraction": 0,
        }.items()
    }
    command = [python, str(folder / "child.py"), str(folder)]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    native = "use_native_execution_time_predictor"  # the faster of its two
    command += [f"--random_forrest_execution_time_predictor_config_{native}"]
    off = ("store_plots", "enable_chrome_trace", "write_json_trace")
    command += [f"--no-metrics_config_{name}" for name in off]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    line = next((t for t in ended.stdout.splitlines() if t.startswith("RAN ")), None)
    if line is None:
        raise SystemExit(f"vidur did not run; it said:\n{ended.stderr[-1500:]}")
    _, fitting, running, last, out = line.split()
    with next((folder / out).rglob("request_metrics.csv")).open() as stream:
        e2e = [float(row["request_e2e_time"]) for row in csv.DictReader(stream)]
    assert len(e2e) == len(trace), "vidur has not ended all requests"
    return float(fitting), float(running), float(np.mean(e2e)), float(last)


def hermes(steps: StepModel, trace: RequestTrace, ahead: bool) -> tuple[float, float, float]:
    """(CPU seconds of the run and its metrics, mean E2E, last end), in hermes."""
    start = time.process_time()
    rules = batching("chunked", CALLS, CHUNK)
    calls = replay(trace, steps, rules, kv_blocks=BLOCKS, run_ahead=ahead).calls
    for values in (calls.ttft_s, calls.tpot_s, calls.e2e_s):
        np.percentile(values, (50, 90, 99))
    took = time.process_time() - start
    return took, float(calls.e2e_s.mean()), float(calls["last_ns"].max()) / 1e9


def main() -> None:
    """Run both on the same traces and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vidur", help="interpreter of an environment that has vidur")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    python = asked.vidur or environment()
    print(
        "| rate (1/s) | simulator | requests/CPU s | times vidur's | mean E2E (s) | last end (s) |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    fitting = 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        profiles(folder)
        steps = read_vidur_profile(folder, Shape(layers=LAYERS))
        for rate in asked.rates:
            found = []
            for seed in range(asked.seeds):
                trace = trace_of(asked.requests, rate, asked.data, seed)
                fit, *theirs = vidur(python, folder, trace)
                fitting = max(fitting, fit)
                found.append((theirs, hermes(steps, trace, True), hermes(steps, trace, False)))
            table = np.median(np.array(found), axis=0)  # [simulator, (CPU s, mean E2E, last end)]
            names = ("vidur", "hermes, iterations together", "hermes, one by one")
            for name, (seconds, e2e, last) in zip(names, table, strict=True):
                speed = f"{asked.requests / seconds:,.0f} | {table[0, 0] / seconds:.1f}"
                print(f"| {rate:g} | {name} | {speed} | {e2e:.3f} | {last:.1f} |", flush=True)
    print(f"\nbeside that vidur fits its predictors once, in {fitting:.0f} CPU seconds")


if __name__ == "__main__":
    main()
