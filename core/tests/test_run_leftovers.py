"""What runs leave behind and leave to each other: folders of killed ones, steps in the making,
hardware that was chosen.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy_parts
from toy_parts import Machine, MachineParams, toy_registry
from toy_runs import PIPELINE, go, pipeline
from toy_runs import own_cache as own_cache  # a fixture

from crosslayer.contracts import ops
from crosslayer.errors import InputError
from crosslayer.filelock import exclusive
from crosslayer.progress import Progress
from crosslayer.registry import KINDS, Registry
from crosslayer.rundir import RESERVED, run_directory, slug
from crosslayer.runner import run
from crosslayer.stepcache import StepCache
from crosslayer.steps import Steps

pytestmark = pytest.mark.usefixtures("own_cache")


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
    os.close(handle)


def test_the_next_run_of_a_name_takes_away_what_a_killed_one_left_and_nothing_else(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from crosslayer.rundir import run_directory\n"
        "with run_directory(Path(sys.argv[1]) / 'toy'): os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    (killed,) = tmp_path.iterdir()
    others = [".toy-abcdefg1", ".toy-run-abcdefg1", ".toy-2", "toy-abcdefg1"]
    for name in others:
        (tmp_path / name).mkdir()
    old = time.time() - 3600
    for path in tmp_path.iterdir():
        os.utime(path, (old, old))
    fresh = tmp_path / ".toy-abcdefg2"
    fresh.mkdir()
    with held(tmp_path / others[0]), run_directory(tmp_path / "toy"):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert killed.name not in left
    assert left == {"toy", fresh.name, *others}


def test_the_cache_takes_away_what_a_killed_writer_left(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    left = tmp_path / "cache" / ".writing-abcdefg1"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    StepCache(tmp_path / "cache").put("key", {}, output)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_step_that_several_want_at_once_is_made_once(tmp_path: Path) -> None:
    made, said = [], Lines()

    def one(folder: Path) -> None:
        steps = Steps(folder, 0, 1, said)

        def make(context: Any) -> str:
            made.append(1)
            time.sleep(0.2)
            return "result"

        dump, load = (lambda text, _: {"text": text}), (lambda body, _: body["text"])
        assert steps.cached("step", "key", make, dump, load)[0] == "result"

    threads = [threading.Thread(target=one, args=(tmp_path / str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert said.lines.count("step: waiting for another run that does the same") == 3
    assert not list((StepCache().folder / "locks").iterdir())


def test_a_step_whose_maker_fails_is_made_by_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "key"
    with pytest.raises(ZeroDivisionError), exclusive(lock):
        1 / 0
    with exclusive(lock, on_wait=lambda: pytest.fail("the lock was left")):
        assert lock.exists()
    assert not lock.exists()


TUNINGS: list[tuple[str, tuple[int, ...]]] = []


class Chooser(Machine):
    """Takes a rate that does the graphs it is tuned for in a second."""

    def tuned_for(self, graphs: tuple[Any, ...]) -> Chooser:
        work = [sum(ops.flops(op) for op in graph.nodes) for graph in graphs]
        TUNINGS.append((self.params.preset, tuple(work)))
        return Chooser(self.params.model_copy(update={"flops_per_s": float(max(work))}))


def choosing_registry() -> Registry:
    toys = toy_registry()
    found = [one for kind in KINDS for one in toys.components(kind).values()]
    return Registry(
        [*found, toy_parts._component("accelerator_model", "chooser", Chooser, MachineParams)]
    )


@pytest.mark.parametrize("fallback", ["", '\nfallback = "machine:large"'])
def test_hardware_is_chosen_once_for_an_instance_and_the_lock_names_it(
    fallback: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_parts, "Chooser", Chooser, raising=False)
    TUNINGS.clear()
    text = PIPELINE.replace('use = "machine:small"', f'use = "chooser"{fallback}')
    options: dict[str, Any] = {"registry": choosing_registry(), "threads": 1}
    done = run(pipeline(tmp_path, text), runs_dir=tmp_path / "runs", **options)
    ((_, (prefill, decode)),) = TUNINGS
    assert prefill > decode > 0
    chosen = tomllib.loads(done.lock)["lock"]["hardware"]
    assert chosen["toy"]["flops_per_s"] == prefill
    assert done.metrics.value("prefill_latency_s") >= 1.0
    said = Lines()
    lock = done.directory / "pipeline.lock.toml"
    again = run(lock, runs_dir=tmp_path / "again", progress=said, **options)
    assert len(TUNINGS) == 2  # it chooses again, from the same graphs
    assert TUNINGS[0] == TUNINGS[1]
    assert tomllib.loads(again.lock)["lock"]["hardware"] == chosen
    assert not [line for line in said.lines if "hardware chosen" in line]
    other = lock.read_text().replace(f"flops_per_s = {float(prefill)!r}", "flops_per_s = 1.0")
    assert other != lock.read_text()
    run(pipeline(tmp_path, other), runs_dir=tmp_path / "third", progress=said, **options)
    assert [line for line in said.lines if "the hardware chosen for toy" in line]


def test_different_names_have_different_folders_that_a_person_can_read() -> None:
    assert slug("SmolLM2 on a phone") == "smollm2-on-a-phone"
    assert slug("llama-3.1_8b on h100") == "llama-3.1-8b-on-h100"
    names = [
        "日本語",
        "中文",
        "run",
        "a",
        "a!",
        "a?",
        "x.failed",
        "x.old",
        "x.part",
        "x.sweep",
        "x",
    ]
    names += ["n" * 80, "n" * 81, "n" * 82, "m" * 71 + "-" * 9 + "é", ".hidden", "hidden", "/etc"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert not any(one.endswith(RESERVED) for one in slugs)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}", one) for one in slugs)
    assert slug("日本語").startswith("run-") and slug("x.failed").startswith("x.failed-")


@pytest.mark.parametrize("place", ["toy", "toy.failed"])
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_no_run_has_written_is_refused_before_a_step_and_stays(
    place: str, what: str, tmp_path: Path
) -> None:
    theirs, elsewhere = tmp_path / "runs" / place, tmp_path / "elsewhere"
    for folder in (theirs.parent, elsewhere):
        folder.mkdir()
    (elsewhere / "run.json").write_text("{}")
    if what == "folder":
        theirs.mkdir()
        (theirs / "diary.txt").write_text("mine")
    elif what == "file":
        theirs.write_text("mine")
    else:
        theirs.symlink_to(elsewhere)
    named = pipeline(tmp_path, PIPELINE.replace("Toy <b>run</b>", "toy"))
    with pytest.raises(InputError, match=f"{place} is .* give the run another name") as caught:
        go(named, tmp_path)
    assert caught.value.exit_code == 2
    assert not toy_parts.CALLS
    assert os.listdir(theirs.parent) == [place]
    kept = theirs / "diary.txt" if what == "folder" else theirs
    assert kept.read_text() == "mine" if what != "link" else (elsewhere / "run.json").exists()
