"""hermes against vidur (PyPI), the same trace and the same made-up profile, in CPU seconds.

`python benchmarks/vidur_peer.py --vidur PYTHON [--requests 5000]`: PYTHON is an interpreter of an
environment of its own with `vidur` and what it needs. vidur fetches profiles from the network; here
it is pointed at a folder of profiles that this script makes up in its format, and fits them with a
small random forest (its linear regression does not start in 0.0.26). Its model fitting is not
timed, nor is our reading. Both run with metrics; neither draws or writes event traces.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from crosslayer.contracts.requests import RequestTrace
from hermes_sim.batching import batching
from hermes_sim.readers.kernel_bundle import Shape
from hermes_sim.readers.vidur_profile import read_vidur_profile
from hermes_sim.replay import replay

MODEL = {"n_embd": 4096, "n_kv_head": 8, "block_size": 16, "num_tensor_parallel_workers": 1}
NAME, LAYERS, BLOCKS = "meta-llama/Llama-3-8B", 32, 20_000
OPS = {
    "emb": 0.01, "input_layernorm": 0.005, "attn_pre_proj": 0.02, "attn_rope": 0.004,
    "attn_post_proj": 0.015, "post_attention_layernorm": 0.005, "mlp_up_proj": 0.06,
    "mlp_act": 0.01, "mlp_down_proj": 0.05, "add": 0.004,
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
simulator = Simulator(config)
start = time.process_time()
simulator.run()
print("CPU_SECONDS", time.process_time() - start, simulator._time)
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
    for tokens in (*range(1, 16), *range(16, 4097, 48)):
        times = {f"time_stats.{op}.median": at * (1 + tokens / 250) for op, at in OPS.items()}
        shape = {
            "n_head": 32,
            "n_expanded_embd": 14336,
            "use_gated_mlp": True,
            "vocab_size": 128256,
        }
        mlp.append(MODEL | shape | {"vocab_size": 128256, "num_tokens": tokens} | times)
    write(folder / "mlp.csv.xz", mlp)
    attention = []
    base = MODEL | {"n_q_head": 32, "time_stats.attn_kv_cache_save.median": 0.003}
    for chunk in (32, 64, 128, 256, 512):
        for cached in (0, 32, 512, 1024, 2048, 4096):
            ms = 0.01 + chunk * (cached + chunk / 2) * 2e-7
            attention.append(
                base | {"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": cached,
                        "is_prefill": True, "time_stats.attn_prefill.median": ms}
            )  # fmt: skip
    for calls in (1, 2, 4, 8, 16, 32, 64, 128):
        for cached in (32, 512, 1024, 2048, 4096):
            ms = 0.01 + calls * cached * 2.5e-6
            attention.append(
                base | {"batch_size": calls, "prefill_chunk_size": 0, "kv_cache_size": cached,
                        "is_prefill": False, "time_stats.attn_decode.median": ms}
            )  # fmt: skip
    write(folder / "attention.csv.xz", attention)
    for name in ("all_reduce", "send_recv"):
        write(folder / f"{name}.csv.xz", [{"num_workers": 1, "devices_per_node": 1, "size": 1,
                                          "collective": name, "rank": 0}])  # fmt: skip


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vidur", required=True, help="interpreter of vidur's environment")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=3.0)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    count = asked.requests
    prompts = np.clip(np.rint(rng.lognormal(6.7, 0.8, count)), 2, 3500).astype(int)
    outputs = np.clip(np.rint(rng.lognormal(4.9, 0.9, count)), 2, 500).astype(int)
    arrival = np.cumsum(rng.exponential(1 / asked.rate, count))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        profiles(folder)
        steps = read_vidur_profile(folder, Shape(layers=LAYERS))
        trace = RequestTrace(np.rint(arrival * 1e9).astype(np.int64), prompts, outputs)
        start = time.process_time()
        ours = replay(trace, steps, batching("chunked", 128, 512), kv_blocks=BLOCKS)
        summary = np.percentile(ours.calls.e2e_s, (50, 99)), ours.calls.ttft_s.mean()
        seconds = time.process_time() - start
        print("| simulator | CPU seconds | requests/CPU s | last request ends (s) |")
        print("|---|---|---|---|")
        span = ours.calls["last_ns"].max() / 1e9
        print(f"| hermes | {seconds:.2f} | {count / seconds:,.0f} | {span:.1f} |", flush=True)
        assert np.isfinite(summary[0]).all()
        rows = ["Date,Time,PromptTokenCount,CompletionTokenCount"]
        rows += [f"d,{at},{p},{o}" for at, p, o in zip(arrival, prompts, outputs, strict=True)]
        file = folder / "trace.csv"
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
        (folder / "child.py").write_text(CHILD, encoding="utf-8")
        predictor = "--random_forrest_execution_time_predictor_config_"
        metrics = ("store_plots", "enable_chrome_trace", "write_json_trace")
        command = [
            asked.vidur, str(folder / "child.py"), str(folder),
            "--replica_config_model_name", NAME,
            "--replica_config_tensor_parallel_size", "1",
            "--replica_config_num_pipeline_stages", "1",
            "--request_generator_config_type", "trace_replay",
            "--trace_request_generator_config_trace_file", str(file),
            "--trace_request_generator_config_date", "d",
            "--trace_request_generator_config_max_tokens", "4096",
            "--replica_scheduler_config_type", "sarathi",
            "--sarathi_scheduler_config_batch_size_cap", "128",
            "--sarathi_scheduler_config_chunk_size", "512",
            "--cache_config_num_blocks", str(BLOCKS),
            "--execution_time_predictor_config_type", "random_forrest",
            f"{predictor}num_estimators", "10",
            f"{predictor}max_depth", "16",
            f"{predictor}min_samples_split", "2",
            f"{predictor}num_training_job_threads", "1",
            f"{predictor}k_fold_cv_splits", "2",
            f"{predictor}cache_dir", str(folder / "cache"),
            *(f"--no-metrics_config_{name}" for name in metrics),
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        line = next((t for t in ended.stdout.splitlines() if t.startswith("CPU_SECONDS")), "")
        if not line:
            print(json.dumps({"vidur": "did not run", "stderr": ended.stderr[-1500:]}, indent=1))
            raise SystemExit(1)
        took, end = map(float, line.split()[1:])
        print(f"| vidur | {took:.2f} | {count / took:,.0f} | {end:.1f} |")


if __name__ == "__main__":
    main()
