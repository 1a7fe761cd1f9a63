"""The step cache: whole entries only, broken ones never used, bounded."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from crosslayer import stepkey
from crosslayer.progress import Progress
from crosslayer.stepcache import StepCache
from crosslayer.stepkey import content_digest, source_digest, step_key


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def written(folder: Path, **files: str) -> Path:
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, text in files.items():
        (output / "deep").mkdir(exist_ok=True)
        (output / "deep" / name).write_text(text)
    return output


def test_an_entry_comes_back_with_its_files(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "cache")
    assert cache.get("k") is None
    cache.put("k", {"numbers": [1.5, 2]}, written(tmp_path, a="one", b="two"))
    entry = cache.get("k")
    assert entry is not None
    assert entry.body == {"numbers": [1.5, 2]}
    entry.put_files(tmp_path / "again")
    copied = tmp_path / "again" / "deep" / "b"
    assert copied.read_text() == "two"
    copied.write_text("edited by a person")  # which is of that run alone
    whole = cache.get("k")
    assert whole is not None and whole.files["deep/b"].read_text() == "two"


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "entry.json").write_text("{"),
        lambda place: (place / "entry.json").write_text(
            (place / "entry.json").read_text().replace("1.5", "1.6")
        ),
        lambda place: (place / "entry.json").write_bytes(b"\xff"),
        lambda place: (place / "entry.json").write_text("[]"),
        lambda place: (place / "files" / "deep" / "a").write_text("eno"),
        lambda place: (place / "files" / "deep" / "a").unlink(),
    ],
)
def test_a_broken_entry_is_deleted_with_a_line_and_never_used(harm: object, tmp_path: Path) -> None:
    said = Lines()
    cache = StepCache(tmp_path / "cache", said)
    cache.put("k", {"numbers": [1.5]}, written(tmp_path, a="one"))
    harm(tmp_path / "cache" / "k")  # type: ignore[operator]
    assert cache.get("k", "the toy step") is None
    assert not (tmp_path / "cache" / "k").exists()
    assert len(said.lines) == 1
    assert "the toy step" in said.lines[0]


def test_nothing_half_written_is_left_and_a_second_writer_keeps_the_first_entry(
    tmp_path: Path,
) -> None:
    cache = StepCache(tmp_path / "cache")
    cache.put("k", {"by": "first"}, written(tmp_path))
    cache.put("k", {"by": "second"}, written(tmp_path))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["k"]
    assert cache.get("k").body == {"by": "first"}  # type: ignore[union-attr]


def test_many_writers_and_readers_at_once_see_whole_entries_only(tmp_path: Path) -> None:
    output = written(tmp_path, a="x" * 10_000)
    said = Lines()
    wrong: list[object] = []

    def work() -> None:
        cache = StepCache(tmp_path / "cache", said)
        for i in range(10):
            cache.put(f"k{i}", {"i": i}, output)
            entry = cache.get(f"k{i}")
            if entry is None or entry.body != {"i": i}:
                wrong.append(entry)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not said.lines


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "cache", bound_bytes=25_000)
    for i, key in enumerate(["old", "used", "new"]):
        cache.put(key, {}, written(tmp_path, a="x" * 8_000))
        os.utime(tmp_path / "cache" / key / "entry.json", ns=(i, i))
    assert cache.get("old") is not None  # now the youngest
    cache.put("last", {}, written(tmp_path, a="x" * 8_000))
    assert cache.get("used") is None
    assert cache.get("old") is not None
    assert cache.get("last") is not None


def test_a_cache_that_cannot_be_written_costs_a_line_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = Lines()
    cache = StepCache(tmp_path / "file" / "cache", said)
    cache.put("k", {}, written(tmp_path))
    assert "cannot be written" in said.lines[0]


def test_a_key_depends_on_every_input_and_not_on_the_order_of_names() -> None:
    assert step_key("a", x=1, y={"p": 1, "q": 2}) == step_key("a", y={"q": 2, "p": 1}, x=1)
    keys = {
        step_key("a", x=1),
        step_key("b", x=1),
        step_key("a", x=2),
        step_key("a", y=1),
        step_key("a", x="1"),
    }
    assert len(keys) == 5


def test_content_counts_and_the_path_does_not(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.txt").write_text("same")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")
    (tmp_path / "two" / "f.txt").write_text("else")
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "two")


def test_a_changed_source_file_changes_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    first = source_digest.__wrapped__("some_toy_package")
    (package / "more.py").write_text("x = 1\n")
    assert source_digest.__wrapped__("some_toy_package") != first


@pytest.mark.parametrize(
    "name", ["contracts/ops.py", "kinds.py", "live.py", "texts.py", "wikitext.py"]
)
def test_a_change_of_what_every_component_stands_on_changes_its_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(stepkey.__file__).parent
    for part in stepkey.FOUNDATION:
        copy = shutil.copytree if (here / part).is_dir() else shutil.copy
        copy(here / part, tmp_path / part)
    monkeypatch.setattr(stepkey, "__file__", str(tmp_path / "stepkey.py"))
    before = stepkey.contracts_digest.__wrapped__()
    with (tmp_path / name).open("a") as file:
        file.write("# changed\n")
    assert stepkey.contracts_digest.__wrapped__() != before
