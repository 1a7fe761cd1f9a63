"""The command line, as its users call it: in a process of its own where imports matter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from talkers import Upstream

from slm_mux.cli import main
from slm_mux.records import Recorded, Row, read_rows, write_rows

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def running(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert (ended.value.code or 0) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return running


@pytest.fixture
def records(tmp_path: Path) -> str:
    """Twenty questions; "good" is right on 3 of 4 samples, "sure" always says 7."""
    rows = []
    for q in range(20):
        for model, answers in (("good", [str(q)] * 3 + ["0.5"]), ("sure", ["7"] * 4)):
            samples = tuple(Recorded(text=f"It is {a}") for a in answers)
            rows.append(Row(model=model, qid=f"q{q}", gold=str(q), samples=samples))
    file = tmp_path / "records.jsonl"
    write_rows(rows, file)
    return str(file)


def pool(up: Upstream, folder: Path) -> str:
    file = folder / "pool.toml"
    file.write_text(
        f"""k = 2
early_stop = "never"
[pools]
pair = ["a", "b"]
[[member]]
name = "a"
accuracy = 0.7
use = "openai"
base_url = "{up.base_url}"
model = "say 4"
[[member]]
name = "b"
accuracy = 0.5
use = "openai"
base_url = "{up.base_url}"
model = "say 5"
system = "Be brief."
""",
        encoding="utf-8",
    )
    return str(file)


def test_ask_prints_the_chosen_text_and_json_has_the_votes(run: Run, tmp_path: Path) -> None:
    with Upstream() as up:
        assert run("ask", "2 + 2?", "--pool", pool(up, tmp_path)) == "It is 4\n"
        told = json.loads(run("ask", "2 + 2?", "--pool", pool(up, tmp_path), "--json"))
        assert up.requests[-1]["messages"][-1]["content"] == "2 + 2?"
        systems = [one["messages"][0] for one in up.requests if one["model"] == "say 5"]
    assert (told["model"], told["answer"], told["calls"]) == ("a", "4", 4)
    assert told["votes"]["b"] == {"counts": {"5": 2}, "k": 2}
    assert told["usage"]["total_tokens"] == 4 * 8
    assert {turn["content"] for turn in systems} == {"Be brief."}


def test_collect_goes_on_where_it_was_interrupted(run: Run, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": str(i), "prompt": f"is it {i}?", "answer": "4"} for i in range(4)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with Upstream() as up:
        common = [str(questions), str(out), "--pool", pool(up, tmp_path), "--samples", "3"]
        assert "4 new rows" in run("collect", *common, "--limit", "2")
        assert len({one["seed"] for one in up.requests}) == len(up.requests) == 2 * 2 * 3
        out.write_bytes(out.read_bytes()[:-20])  # a cut line
        assert "5 new rows" in run("collect", *common)
        assert "0 new rows" in run("collect", *common)
        assert "write to another" in run("collect", *common[:-1], "4", code=2)
    found = read_rows(out)
    assert {(row.model, row.qid) for row in found} == {(m, str(q)) for m in "ab" for q in range(4)}
    assert all(len(row.samples) == 3 and row.samples[0].tokens_out == 3 for row in found)


def test_a_member_that_fails_and_a_full_disk_cost_collect_nothing_that_was_said(
    run: Run, tmp_path: Path
) -> None:
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": str(i), "prompt": f"is it {i}?", "answer": "4"} for i in range(9)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with Upstream() as up:
        file = Path(pool(up, tmp_path))
        working = file.read_text("utf-8")
        file.write_text(working.replace('"say 4"', '"fail"\nattempts = 1'), "utf-8")
        command = ["collect", str(questions), str(out), "--pool", str(file), "--samples", "1"]
        assert "fail at" in run(*command, code=4)
        assert {row.model for row in read_rows(out)} == {"b"} and len(read_rows(out)) == 9
        file.write_text(working, "utf-8")
        code = (
            "import resource, sys\n"
            "from slm_mux.cli import main\n"
            "limit = int(sys.argv[1])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
            "main(sys.argv[2:])\n"
        )
        limit = str(out.stat().st_size + 300)  # a row, and a piece of the next
        full = subprocess.run(
            [sys.executable, "-c", code, limit, *command], capture_output=True, text=True
        )
        assert full.returncode == 2 and "the same command goes on" in full.stderr
        assert "Traceback" not in full.stderr
        assert "8 new rows" in run(*command)
    assert len(read_rows(out)) == 18


def test_collect_touches_no_file_that_is_none_of_records(run: Run, tmp_path: Path) -> None:
    questions, other = tmp_path / "questions.jsonl", tmp_path / "other.jsonl"
    asked = json.dumps({"id": "1", "prompt": "is it 1?", "answer": "4"})
    questions.write_text(asked, "utf-8")  # its only line has no end
    with Upstream() as up:
        pooled = ["--pool", pool(up, tmp_path), "--samples", "1"]
        assert "is no record" in run("collect", str(questions), str(questions), *pooled, code=2)
        assert questions.read_text("utf-8") == asked
        assert "cannot be" in run("collect", str(questions), str(tmp_path), *pooled, code=2)
        assert "2 new rows" in run("collect", str(questions), str(other), *pooled)
        other.write_bytes(other.read_bytes()[:-1])  # whole, only without an end
        assert "0 new rows" in run("collect", str(questions), str(other), *pooled)
        assert len(read_rows(other)) == 2
        before = other.read_bytes()
        for changed in ("is it 2?", "4"), ("is it 1?", "5"):
            row = {"id": "1", "prompt": changed[0], "answer": changed[1]}
            questions.write_text(json.dumps(row) + "\n", "utf-8")
            told = run("collect", str(questions), str(other), *pooled, code=2)
            assert "another question under the id '1'" in told
    assert other.read_bytes() == before
    assert not list(tmp_path.glob("*.lock"))


def test_replay_search_scale_and_bench_give_tables_and_json(run: Run, records: str) -> None:
    rows = json.loads(run("replay", records, "-k", "2", "--splits", "5", "--json"))
    by_method = {row["method"]: row for row in rows}
    assert by_method["slm-mux"]["accuracy"] < by_method["union of modes (oracle)"]["accuracy"]
    assert by_method["best, self-consistency of nk=4"]["accuracy"] > 0.9
    subsets = json.loads(run("search", records, "--json", "--cost", "good=3"))
    assert subsets[0]["models"] == "good" and subsets[0]["cost"] == 3
    assert "1 model " in run("scale", records, "-k", "2", "--splits", "2")
    table = run("bench", records, "--pool", "good", "--pool", "good,sure", "--k", "1,2")
    assert table.count("slm-mux") > 4 and "pooled vote" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "missing.jsonl"], "cannot be read"),
        (["replay", "RECORDS", "--models", "god"], "did you mean 'good'"),
        (["replay", "RECORDS", "-k", "9"], "9 samples cannot be drawn without replacement"),
        (["search", "RECORDS", "--correct", "most"], "mode, any, all"),
        (["search", "RECORDS", "--cost", "good=much"], "needs MODEL=NUMBER"),
        (["bench", "RECORDS", "--k", "two"], "no list of whole numbers"),
        (["import", "champion", "out"], "did you mean 'champ'"),
        (["import", "collect", "out"], "needs the files"),
        (["import", "collect", "FOLDER", "COLLECTED"], "cannot be written"),
        (["bench", "RECORDS", "--k", "-1"], "-1 samples"),
        (["search", "RECORDS", "--correct", "²"], "mode, any, all"),
        (["search", "RECORDS", "--lambda", "inf"], "lambda = inf"),
        (["search", "RECORDS", "--cost", "good=nan"], "needs MODEL=NUMBER"),
        (["ask", "x", "--pool", "missing.toml"], "cannot be read as TOML"),
        (["serve", "--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["replay", "RECORDS", "--models", ","], "a pool needs one model or more"),
        (["replay", "RECORDS", "--models", "good,sure,good"], "names the model 'good' twice"),
        (["bench", "RECORDS", "--pool", "", "--k", "2"], "a pool needs one model or more"),
        (["search", "RECORDS", "--cost", "good"], "--cost good: needs MODEL=NUMBER"),
        (["search", "RECORDS", "--cost", "god=1"], "did you mean 'good'"),
        (["import", "collect", "RECORDS", "COLLECTED"], "holds something else already"),
        (["import", "collect", "NEW", "COLLECTED", "COLLECTED"], "is there twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    run: Run, records: str, arguments: list[str], said: str
) -> None:
    folder = Path(records).parent
    collected = folder / "collected.json"
    response = {"question": "2 + 2?", "answer": "4", "samples": [{"model_response": "4"}]}
    collected.write_text(json.dumps({"model": "m", "responses": [response]}), "utf-8")
    names = {"RECORDS": records, "FOLDER": str(folder), "COLLECTED": str(collected)}
    names["NEW"] = str(folder / "new.jsonl")
    before = Path(records).read_bytes()
    given = [names.get(one, one) for one in arguments]
    error = run(*given, code=2)
    assert Path(records).read_bytes() == before
    assert {one.name for one in folder.iterdir()} == {"records.jsonl", "collected.json"}
    assert said in error
    assert error.startswith("slm-mux: ") and error.count("\n") == 1


def test_serve_tells_a_taken_port_and_a_missing_key_in_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with Upstream() as up:
        file = pool(up, tmp_path)
        port = up.base_url.removesuffix("/v1").rpartition(":")[2]
        error = run("serve", "--pool", file, "--port", port, code=2)
        assert f"cannot listen at 127.0.0.1, port {port}" in error and error.count("\n") == 1
        Path(file).write_text(
            Path(file).read_text("utf-8") + 'api_key_env = "NO_SUCH_KEY"', "utf-8"
        )
        error = run("serve", "--pool", file, "--port", "0", code=2)
        assert "NO_SUCH_KEY is not set" in error and error.count("\n") == 1


def test_serve_at_port_nought_says_where_it_is_and_answers(tmp_path: Path) -> None:
    code = "from slm_mux.cli import main; main()"
    with Upstream() as up:
        file = pool(up, tmp_path)
        command = [sys.executable, "-c", code, "serve", "--pool", file, "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            try:
                said = process.stderr.readline()
                url = said.strip().rpartition(" at ")[2].removesuffix("/v1")
                with build_opener(ProxyHandler({})).open(f"{url}/health", timeout=60) as answer:
                    assert json.loads(answer.read())["members"] == ["a", "b"]
            finally:
                process.terminate()
                process.wait(30)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k = 3", r"needs a \[\[member\]\]"),
        ('[[member]]\nname = "a"\naccuracy = 2\nuse = "smollm2"', "accuracy"),
        ('[[member]]\nname = "a"\naccuracy = 1\nuse = "smolm2"', "did you mean 'smollm2'"),
        ('kk = 3\n[[member]]\nname = "a"\naccuracy = 1\nuse = "smollm2"', "kk"),
        ('[[member]]\nname = "a"\naccuracy = 1\nuse = "smollm2"\npath = "x"', "no key 'path'"),
        ('[[member]]\nname = "a"\naccuracy = 1\nuse = "openai"', "base_url"),
        ('[pools]\np = ["z"]\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"', "names 'z'"),
        ('pools = 3\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"', "pools: "),
        ('[pools]\np = "a"\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"', "pools.p: "),
        ('[pools]\np = []\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"', "pools.p: "),
        ('accuracies = {a = 1}\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"', "under its"),
        (
            'extractor="nmber"\n[[member]]\nname="a"\naccuracy=1\nuse="smollm2"',
            "toml: extractor: no",
        ),
        ('[[member]]\nname="a"\naccuracy=nan\nuse="smollm2"', "accuracy: "),
    ],
)
def test_a_bad_pool_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    from crosslayer.errors import InputError
    from slm_mux.pool_file import read_pool

    file = tmp_path / "pool.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_pool(file)
    assert "pool.toml" in str(caught.value)


def test_asking_an_endpoint_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'fastapi'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from slm_mux.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    with Upstream() as up:
        command = [sys.executable, "-c", code, "ask", "2 + 2?", "--pool", pool(up, tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "It is 4\n"), done.stderr
