"""Fetching assets through pip from a wheelhouse made here: no network, real pip, real processes."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import pytest

import crosslayer.fetch
from crosslayer.errors import DependencyError, InputError
from crosslayer.fetch import Asset, assets, cached, catalogue, fetch
from crosslayer.progress import Progress
from crosslayer.stored import stored

WORDS = b"the words of the tiny asset\n" * 50
MEMBER = "tinyasset/words.txt"


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, the only place where pip looks; an empty cache."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    house = tmp_path / "wheels"
    house.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSLAYER_OFFLINE", raising=False)
    with zipfile.ZipFile(house / "tinyasset-1.0-py3-none-any.whl", "w") as wheel:
        fields = (
            "Metadata-Version: 2.1",
            "Name: tinyasset",
            "Version: 1.0",
            "Requires-Dist: nowhere",
        )
        wheel.writestr("tinyasset-1.0.dist-info/METADATA", "\n".join(fields) + "\n")
        wheel.writestr(
            "tinyasset-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("tinyasset-1.0.dist-info/RECORD", "")
        wheel.writestr(MEMBER, WORDS)
    return house


@pytest.fixture
def known(wheelhouse: Path) -> Mapping[str, Asset]:
    return {"tiny": tiny_asset(wheelhouse)}


def tiny_asset(wheelhouse: Path) -> Asset:
    (wheel,) = wheelhouse.glob("*.whl")
    return Asset(
        summary="Words",
        licence="CC0-1.0",
        requirement="tinyasset==1.0",
        pip_options=(),
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_bytes=len(WORDS),
        member_sha256=hashlib.sha256(WORDS).hexdigest(),
    )


class Lines(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def files_in_cache(tmp_path: Path) -> list[str]:
    """Every file below the cache but locks and stamps."""
    found = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.endswith((".lock", ".checked")))


def test_a_fetched_asset_is_the_checked_member_and_nothing_else(
    tmp_path: Path, known: Mapping[str, Asset]
) -> None:
    assert cached("tiny", known) is None
    assert [status.present for status in assets(known)] == [False]

    path = fetch("tiny", known=known)

    assert path.read_bytes() == WORDS
    assert files_in_cache(tmp_path) == ["words.txt"]
    assert cached("tiny", known) == path
    (status,) = assets(known)
    assert (status.present, status.path, status.bytes) == (True, path, len(WORDS))
    assert status.sha256 == hashlib.sha256(WORDS).hexdigest()


def test_what_is_cached_needs_no_pip_and_no_network(
    wheelhouse: Path, known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch("tiny", known=known)
    for wheel in wheelhouse.glob("*.whl"):
        wheel.unlink()
    monkeypatch.setenv("CROSSLAYER_OFFLINE", "1")
    assert fetch("tiny", known=known) == path


def test_a_damaged_file_in_the_cache_is_fetched_again(known: Mapping[str, Asset]) -> None:
    path = fetch("tiny", known=known)
    path.write_bytes(WORDS[:10])
    assert cached("tiny", known) is None
    assert fetch("tiny", known=known).read_bytes() == WORDS


def test_a_file_of_the_right_size_and_the_wrong_bytes_is_deleted_named_and_fetched_again(
    known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch("tiny", known=known)
    assert cached("tiny", known) == path
    path.write_bytes(bytes(len(WORDS)))
    assert cached("tiny", known) is None
    assert [status.present for status in assets(known)] == [False]
    lines = Lines()
    assert fetch("tiny", lines, known).read_bytes() == WORDS
    assert f"tiny: {path} is damaged, its SHA-256 is another; it is deleted" in lines.lines
    path.write_bytes(bytes(len(WORDS)))
    monkeypatch.setenv("CROSSLAYER_OFFLINE", "1")
    with pytest.raises(DependencyError, match="CROSSLAYER_OFFLINE forbids") as error:
        fetch("tiny", known=known)
    assert error.value.exit_code == 3
    assert not path.exists()


def test_a_checked_file_is_hashed_again_only_if_it_changed(
    known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch("tiny", known=known)
    hashed: list[Path] = []
    really = crosslayer.fetch._sha256
    monkeypatch.setattr(
        crosslayer.fetch, "_sha256", lambda path: (hashed.append(path), really(path))[1]
    )
    assert cached("tiny", known) == cached("tiny", known) == path
    assert len(hashed) <= 1
    hashed.clear()
    os.utime(path, (1, 1))
    assert cached("tiny", known) == path
    assert hashed == [path]


@pytest.mark.parametrize(
    "field, shown", [("wheel_sha256", "tinyasset-1.0"), ("member_sha256", MEMBER)]
)
def test_a_wrong_hash_is_deleted_and_named(
    tmp_path: Path, known: Mapping[str, Asset], field: str, shown: str
) -> None:
    right = getattr(known["tiny"], field)
    wrong = {"tiny": dataclasses.replace(known["tiny"], **{field: "0" * 64})}
    with pytest.raises(DependencyError) as error:
        fetch("tiny", known=wrong)
    assert shown in str(error.value)
    assert right in str(error.value)
    assert "expected " + "0" * 64 in str(error.value)
    assert "deleted" in str(error.value)
    assert error.value.exit_code == 3
    assert files_in_cache(tmp_path) == []


def test_offline_with_a_cold_cache_is_one_sentence_that_says_what_to_run_and_where_it_goes(
    tmp_path: Path, known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv(
        "PIP_INDEX_URL", "http://someone:secret@127.0.0.1:9/simple"
    )  # nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DependencyError) as error:
        fetch("tiny", known=known)
    message = str(error.value)
    assert "`crosslayer fetch tiny` when online" in message
    assert str(tmp_path / "cache" / "assets" / "tiny" / "words.txt") in message
    assert "\n" not in message
    assert "secret" not in message
    assert error.value.exit_code == 3
    assert files_in_cache(tmp_path) == []


def test_the_offline_switch_forbids_the_network(
    known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSLAYER_OFFLINE", "1")
    lines = Lines()
    with pytest.raises(DependencyError, match=r"CROSSLAYER_OFFLINE.*crosslayer fetch tiny"):
        fetch("tiny", lines, known)
    assert lines.lines == []


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, known: Mapping[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSLAYER_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DependencyError, match=r"cannot be stored in .*CROSSLAYER_CACHE_DIR"):
        fetch("tiny", known=known)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DependencyError, match=r"thing cannot be stored .* No space left on device"):
        stored(tmp_path / "cache" / "thing", make, Progress(), "thing")
    assert files_in_cache(tmp_path) == []


def test_an_unknown_asset_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'smollm2-135m'"):
        fetch("smollm2")


def test_a_python_without_pip_is_told_how_to_get_it(
    tmp_path: Path, known: Mapping[str, Asset]
) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    # Only the core on the path: the environment of this test may have a pip beside it.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "crosslayer").symlink_to(Path(crosslayer.fetch.__file__).parent)
    process = start(known["tiny"], tmp_path / "path", str(tmp_path / "bare" / "bin" / "python"))
    output, _ = process.communicate(timeout=60)
    assert "-m ensurepip" in output
    assert "python3-pip" in output
    assert "Traceback" not in output


def test_of_two_at_once_one_downloads_and_the_other_finds_it(
    tmp_path: Path, known: Mapping[str, Asset]
) -> None:
    folder = tmp_path / "cache" / "assets" / "tiny"
    folder.mkdir(parents=True)
    with (folder / ".words.txt.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [start(known["tiny"]) for _ in range(2)]
        first_lines = [process.stdout.readline() for process in both if process.stdout]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert all("another process" in line for line in first_lines)
    assert sorted(output.count("downloading") for output in outputs) == [0, 1]
    assert [output.count("got ") for output in outputs] == [1, 1]
    assert (folder / "words.txt").read_bytes() == WORDS


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_nothing_half_and_the_next_one_works(
    tmp_path: Path,
    known: Mapping[str, Asset],
    how: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    silent_server: str,
) -> None:
    with monkeypatch.context() as slow:
        slow.delenv("PIP_NO_INDEX")
        slow.setenv("PIP_INDEX_URL", silent_server)
        slow.setenv("PIP_TIMEOUT", "5")
        process = start(known["tiny"])
        assert process.stdout
        assert "downloading" in process.stdout.readline()
        os.killpg(process.pid, how)  # pip too, as a terminal or a job's end does it
        process.wait(timeout=60)
        process.stdout.close()
    assert process.returncode != 0
    assert cached("tiny", known) is None
    if how == signal.SIGINT:
        assert files_in_cache(tmp_path) == []
    fetch("tiny", known=known)
    assert files_in_cache(tmp_path) == ["words.txt"]
    assert not list((tmp_path / "cache").rglob("*staging*"))


def test_the_built_in_table_is_complete_and_names_no_host() -> None:
    text = resources.files("crosslayer").joinpath("assets.toml").read_text("utf-8")
    assert "://" not in text
    assert set(catalogue()) == {"smollm2-135m", "wikipedia-sample"}
    for asset in catalogue().values():
        assert re.fullmatch(r"[\w-]+==[\w.]+", asset.requirement)
        assert re.fullmatch("[0-9a-f]{64}", asset.wheel_sha256)
        assert re.fullmatch("[0-9a-f]{64}", asset.member_sha256)
        assert asset.licence


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def start(
    asset: Asset, path: Path | None = None, python: str = sys.executable
) -> subprocess.Popen[str]:
    """A process that fetches `tiny`; prints its progress, then "got PATH" or the error."""
    program = f"""
import crosslayer.fetch as f
from crosslayer.errors import CrosslayerError
from crosslayer.progress import PlainProgress
import sys
asset = f.Asset(**{dataclasses.asdict(asset)!r})
try:
    print("got", f.fetch("tiny", PlainProgress(sys.stdout), {{"tiny": asset}}), flush=True)
except CrosslayerError as error:
    print(error)
"""
    path = path or Path(crosslayer.fetch.__file__).parents[1]
    return subprocess.Popen(
        [python, "-c", program],
        env=os.environ | {"PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
