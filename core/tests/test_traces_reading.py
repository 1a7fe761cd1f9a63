"""Traces in the formats of the public releases: exact values, and every defect where it stands."""

from __future__ import annotations

import gzip
import random
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from crosslayer.contracts.requests import Prefix, RequestTrace
from crosslayer.errors import InputError
from crosslayer.traces import TraceErrors, cells, format_name, read_trace, vectors

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE_2023 = AZURE + (
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-17 00:00:00.0000001,879,0"
)
AZURE_2024 = AZURE + (
    "2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:01+00:00,12,1\n"
    "2024-05-10 01:00:01.5+01:00,7,2\n"
)
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURSTGPT = BURST + (
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45.25,GPT-4,1087,230,1317,API log\n"
    "118,ChatGPT,417,0,417,Conversation log\n"
)
SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log\n"
    "19440161.0,,2,ChatGPT,36,29,65,API log\n"
    "19440192.0,1722ac82-0a46,9,GPT-4,50,4,54,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 1030, "output_length": 52, "hash_ids": [46, 47, 48]}\n'
    '{"timestamp": 27.456789, "input_length": 600, "output_length": 26, "hash_ids": [46, 49]}\n'
)
OWN = '{"crosslayer_trace": 1}\n'


def write(tmp_path: Path, text: str | bytes, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path: Path, text: str | bytes, **options: bool) -> RequestTrace:
    return read_trace(write(tmp_path, text), **options)


def columns(trace: RequestTrace) -> list[list[int]]:
    return [c.tolist() for c in (trace.arrival_ns, trace.prompt_tokens, trace.output_tokens)]


def test_seven_digits_of_a_second_are_exact_across_midnight(tmp_path: Path) -> None:
    # 18:15:46.6805900 to midnight are 20653.3194100 s.
    got = columns(read(tmp_path, AZURE_2023))
    assert got == [[0, 4_314_579_000, 20_653_319_410_100], [374, 396, 879], [44, 109, 0]]


def test_time_zones_count_and_seconds_may_be_whole(tmp_path: Path) -> None:
    got = columns(read(tmp_path, AZURE_2024))
    assert got[0] == [0, 990_070_000, 1_490_070_000]


def test_burstgpt_has_models_classes_and_sessions(tmp_path: Path) -> None:
    trace = read(tmp_path, BURSTGPT)
    assert columns(trace) == [[0, 40_250_000_000, 113 * 10**9], [472, 1087, 417], [18, 230, 0]]
    assert [r.call.model for r in trace] == ["ChatGPT", "GPT-4", "ChatGPT"]
    assert [r.slo_class for r in trace] == ["Conversation log", "API log", "Conversation log"]
    trace = read(tmp_path, SESSIONS)
    assert trace.arrival_ns.tolist() == [0, 51 * 10**9, 82 * 10**9]
    assert [r.session for r in trace] == ["1722ac82-0a46", None, "1722ac82-0a46"]


def test_mooncake_hashes_become_prefixes_of_512_tokens(tmp_path: Path) -> None:
    trace = read(tmp_path, MOONCAKE)
    assert columns(trace) == [[0, 27_456_789], [1030, 600], [52, 26]]
    assert [r.call.prefix for r in trace] == [
        Prefix(block_tokens=512, hashes=(46, 47, 48)),
        Prefix(block_tokens=512, hashes=(46, 49)),
    ]


def test_digits_beyond_nanoseconds_are_rounded(tmp_path: Path) -> None:
    rows = "0.0000000004,m,1,1,2,c\n12.3000000000000007,m,1,1,2,c\n"
    assert read(tmp_path, BURST + rows).arrival_ns.tolist() == [0, 12_300_000_000]
    assert cells.instant("1970-01-01 00:00:00.0000000016")[0] == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (AZURE_2023, "azure-llm"),
        (AZURE_2024, "azure-llm"),
        (BURSTGPT, "burstgpt"),
        (SESSIONS, "burstgpt"),
        (MOONCAKE, "mooncake"),
        (OWN, "crosslayer"),
    ],
)
def test_the_first_line_tells_the_format(tmp_path: Path, text: str, name: str) -> None:
    assert format_name(write(tmp_path, text)) == name


def test_the_fast_way_and_the_careful_way_agree(tmp_path: Path) -> None:
    # A quoted cell makes the whole chunk go the careful way.
    for text in (AZURE_2023, AZURE_2024, BURSTGPT, SESSIONS):
        lines = text.split("\n")
        cell = lines[1].split(",")[-2]
        quoted = text.replace(lines[1], lines[1].replace(f",{cell},", f',"{cell}",', 1))
        assert quoted != text
        fast, careful = read(tmp_path, text), read(tmp_path, quoted)
        assert list(fast) == list(careful)
    windows = AZURE_2023.replace("\n", "\r\n")
    assert columns(read(tmp_path, b"\xef\xbb\xbf" + windows.encode())) == columns(
        read(tmp_path, AZURE_2023)
    )


def test_the_fast_way_reads_times_as_the_standard_library_does() -> None:
    draw = random.Random(4)
    days = ["2000-02-29", "1999-12-31", "2024-05-10", "1970-01-01", "2261-12-31", "1900-02-28"]
    zones = {"": "", "Z": "+00:00", "+05:30": "+05:30", "-11:00": "-11:00"}
    for zone, named in zones.items():
        texts = [
            f"{draw.choice(days)} {draw.randrange(24):02}:{draw.randrange(60):02}"
            f":{draw.randrange(60):02}.{draw.randrange(10**6):06}{zone}"
            for _ in range(50)
        ]
        raw = "".join(f"{text},1\n" for text in texts).encode()
        plain = vectors.split(raw, 2)
        assert plain is not None
        found = vectors.instants(plain.data, plain.starts[0], plain.ends[0])
        assert found is not None and found[1] == bool(zone)
        epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        for text, value in zip(texts, found[0].tolist(), strict=True):
            at = datetime.fromisoformat(text.removesuffix(zone) + (named or "+00:00"))
            micros = (at - epoch).days * 86_400_000_000
            micros += (at - epoch).seconds * 10**6 + (at - epoch).microseconds
            assert value == micros * 1000 == cells.instant(text)[0]


@pytest.mark.parametrize(
    "row",
    [
        "2023-02-29 00:00:00,1,1",
        "2023-02-28 24:00:00,1,1",
        "2023-02-28 00:00:60,1,1",
        "2023-02-28 00:00:00.,1,1",
        "2023-02-28 00:00:00.1+24:00,1,1",
        "2023/02/28 00:00:00,1,1",
        "20230228 000000,1,1",
        "1500-01-01 00:00:00,1,1",
        "2023-02-28 00:00:00.1234567,x1,1",
        "2023-02-28 00:00:00.1234567,1:,1",
        "2023-02-28 00:00:00.1234567,+1_0,1",
        "2023-02-28 00:00:00.1234567,1.5,1",
        "2023-02-28 00:00:00.1234567,-1,1",
        "2023-02-28 00:00:00.1234567,,1",
        "2023-02-28 00:00:00.1234567,99999999999999999999,1",
    ],
)
def test_a_row_that_is_nearly_right_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(TraceErrors) as caught:
        read(tmp_path, AZURE + row + "\n")
    assert caught.value.count == 1 and caught.value.problems[0].line == 2


GOOD = "2023-11-16 18:15:46.1,3,4\n"
DEFECTS: dict[str, tuple[str | bytes, tuple[int, int], str]] = {
    "cut off": (AZURE + GOOD + "2023-11-16 18:15:47.6", (3, 22), "1 cells, not 3: it is cut off"),
    "too long": (AZURE + GOOD[:-1] + ",9\n", (2, 28), "4 cells, not 3: it is too long"),
    "NaN": (AZURE + GOOD + GOOD.replace(",3", ",NaN"), (3, 23), "ContextTokens is NaN"),
    "negative": (AZURE + GOOD.replace(",4", ",-4"), (2, 25), "GeneratedTokens is -4"),
    "unsorted": (AZURE + GOOD + "\n" + GOOD.replace("46", "45"), (4, 1), "before that of line 2"),
    "mixed zones": (AZURE + GOOD + GOOD.replace(".1", ".1Z"), (3, 1), "has a time zone"),
    "no UTF-8": (AZURE.encode() + b"2023-11-16 18:15:46,\xff,4\n", (2, 21), "0xff is not UTF-8"),
    "header": ("TIMESTAMP,ContextTokens\n", (1, 1), "azure-llm .*: GeneratedTokens missing"),
    "other header": (BURST.replace("Model", "LLM"), (1, 1), "burstgpt .*Model missing; LLM unkn"),
    "order": ("ContextTokens,TIMESTAMP,GeneratedTokens\n", (1, 1), "in another order"),
    "header only": (AZURE, (2, 1), "no request in the file"),
    "empty": ("", (1, 1), "is empty"),
    "blank": ("\n \n", (1, 1), "is empty"),
    "burst time": (BURST + "-1,GPT-4,1,1,2,API log\n", (2, 1), "Timestamp is -1"),
    "broken JSON": (MOONCAKE + '{"timestamp": 3, "inp', (3, 18), "unterminated string.*cut off"),
    "JSON NaN": (MOONCAKE.replace("27.456789", "NaN"), (2, 15), "NaN is no JSON number"),
    "JSON negative": (MOONCAKE.replace("600", "-600"), (2, 26), "input_length is -600"),
    "JSON text": (MOONCAKE.replace("600", '"6"'), (2, 26), "input_length is '6'; a number"),
    "too many hashes": (MOONCAKE.replace("600", "400"), (2, 68), "2 blocks of 512 .* of 400"),
    "no hashes": (MOONCAKE.replace(', "hash_ids": [46, 49]', ""), (2, 1), "hash_ids is missing"),
    "two on a line": (MOONCAKE + MOONCAKE.replace("}\n{", "} {"), (3, 87), "more on the line"),
    "no object": (MOONCAKE + "[3]\n", (3, 1), r"is \[3\], not an object"),
    "other JSON": ('{"at": 3}\n', (1, 1), "keys 'at' is no known trace"),
    "duplicate id": (
        OWN + '{"arrival_ns":0,"prompt_tokens":1,"id":"a"}\n' * 2, (3, 1), "'a' is that of line 2",
    ),
    "unknown key": (OWN + '{"arrival_ns":0,"promt_tokens":1}\n', (2, 17), "did you mean 'prompt_"),
    "early deadline": (
        OWN + '{"arrival_ns":5,"prompt_tokens":1,"deadline_ns":4}\n', (2, 35), "before arrival_ns",
    ),
    "bad request": (OWN + '{"request":{"id":"a","arrival_ns":0}}\n', (2, 2), "nodes: Field requ"),
    "huge number in a request": (
        OWN + '{"request":{"id":"a","arrival_ns":0,"nodes":[{"prompt_tokens":1e999}]}}\n', (2, 2),
        "holds a number beyond the floats",
    ),
    "thousands of digits": (
        OWN + '{"arrival_ns":' + "9" * 5000 + "}\n", (2, 1), "a number of the line has thousands",
    ),
    "half a character": (
        OWN + '{"arrival_ns":0,"prompt_tokens":1,"id":"\\ud83d"}\n', (2, 35), "half a character",
    ),
    "deep first line": ("{" + '"a":{' * 9000, (1, 1), "is nested too deeply"),
    "long cell": (AZURE + "x" * 200_000 + ",3,4\n", (2, 1), "is no row of CSV"),
    "long header": ("x" * 200_000 + "\n", (1, 1), "is no header of CSV"),
    "other version": ('{"crosslayer_trace": 9}\n', (1, 1), "is 9; this release reads 1"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named_with_file_line_and_column(tmp_path: Path, defect: str) -> None:
    text, place, said = DEFECTS[defect]
    path = write(tmp_path, text)
    with pytest.raises(TraceErrors, match=said) as caught:
        read_trace(path)
    first = caught.value.problems[0]
    assert (first.line, first.column) == place
    assert str(caught.value).startswith(f"{path}:{place[0]}:{place[1]}: ")


def test_the_first_twenty_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"2023-11-16 18:15:46.{i:07},-1,{i}\n" for i in range(500))
    with pytest.raises(TraceErrors, match="and 480 more problems, 500 in all") as caught:
        read(tmp_path, AZURE + rows)
    assert [one.line for one in caught.value.problems] == list(range(2, 22))
    falling = "".join(f"2023-11-16 18:15:{59 - i}.5,1,1\n" for i in range(50))
    with pytest.raises(TraceErrors) as caught:
        read(tmp_path, AZURE + falling)
    assert caught.value.count == 49


def test_sort_puts_rows_in_order_and_equal_times_stay_as_they_are(tmp_path: Path) -> None:
    times = [5, 3, 5, 3, 9]
    rows = "".join(f"{t},m{i},{i},{i},0,c\n" for i, t in enumerate(times))
    trace = read(tmp_path, BURST + rows, sort=True)
    assert trace.prompt_tokens.tolist() == [1, 3, 0, 2, 4]
    assert [r.call.model for r in trace] == ["m1", "m3", "m0", "m2", "m4"]
    assert trace.arrival_ns.tolist() == [0, 0, 2 * 10**9, 2 * 10**9, 6 * 10**9]
    swapped = "".join(reversed(MOONCAKE.splitlines(keepends=True)))
    assert list(read(tmp_path, swapped, sort=True)) == list(read(tmp_path, MOONCAKE))
    own = OWN + '{"arrival_ns":5,"prompt_tokens":1,"id":"b"}\n{"arrival_ns":3,"prompt_tokens":2}\n'
    assert [(r.id, r.arrival_ns) for r in read(tmp_path, own, sort=True)] == [("1", 3), ("b", 5)]


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"2023-11-16 18:15:46.{i:07},{i},{i * 3}\n" for i in range(300))
    text = AZURE + rows
    bad = text.replace(",250,", ",x,")
    whole = columns(read(tmp_path, text))
    for size in (7, 64, 1000):
        monkeypatch.setattr("crosslayer.traces.chunks.CHUNK_BYTES", size)
        assert columns(read(tmp_path, text)) == whole
        with pytest.raises(TraceErrors) as caught:
            read(tmp_path, bad)
        assert [one.line for one in caught.value.problems] == [252]


def test_gzip_is_unpacked_and_a_broken_one_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(AZURE_2023.encode())
    assert columns(read(tmp_path, packed)) == columns(read(tmp_path, AZURE_2023))
    with pytest.raises(InputError, match="broken gzip file"):
        read(tmp_path, packed[:-20])


def test_files_that_cannot_be_opened_and_wrong_formats_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a directory"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="/dev/zero: is no regular file"):
        read_trace("/dev/zero")
    with monkeypatch.context() as patch:
        patch.setattr("crosslayer.traces.chunks.LINE_BYTES", 1000)
        patch.setattr("crosslayer.traces.chunks.CHUNK_BYTES", 100)
        with pytest.raises(TraceErrors, match=":2:1: the line is longer than"):
            read(tmp_path, AZURE + "1" * 2000)
    path = write(tmp_path, AZURE_2023)
    with pytest.raises(InputError, match=r"no trace format .* did you mean 'azure-llm'"):
        read_trace(path, "azure-lm")
    with pytest.raises(TraceErrors, match="in the format azure-llm, not burstgpt"):
        read_trace(path, "burstgpt")


def test_hashes_of_labels_that_collide_do_not_mix_names() -> None:
    names = [f"name-{i % 37}" if i % 5 else "" for i in range(2000)]
    raw = "".join(f"{name},1\n" for name in names).encode()
    plain = vectors.split(raw, 2)
    assert plain is not None
    known: dict[str, int] = {}
    codes = vectors.labels(plain.data, plain.starts[0], plain.ends[0], known)
    assert codes is not None
    back = [*known, ""]
    assert [back[code] for code in codes.tolist()] == names
    assert list(known) == list(dict.fromkeys(name for name in names if name))
    assert np.array_equal(codes == -1, [not name for name in names])
