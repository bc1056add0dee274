"""Datasets: every format gives the same edits, in constant memory, and damage is named."""

import csv
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.datasets import Dataset, Row, open_dataset, parse_mapping, read_rows
from patches.edit import Edit, Probe
from patches.errors import DatasetError, SettingError

FACT = {"prompt": "The capital of Peru is", "target": "Cusco"}


def write_json(path: Path, rows: Sequence[object]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def numbered(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"Number {i} is", "target": f"n{i}"} for i in range(count)]


def rows_of(path: Path) -> list[Row]:
    return list(read_rows(open_dataset(str(path))))


def edits_of(path: Path) -> list[Edit | None]:
    return [row.edit for row in rows_of(path)]


# --- the same edits from every format ---------------------------------------------------------

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(bool)
prompts = st.text(letters, min_size=1, max_size=20).map(str.rstrip).filter(bool)
probes = st.builds(Probe, prompt=prompts, answer=words)
texts_only = st.builds(
    Edit,
    prompt=prompts,
    target=words,
    subject=st.none() | words,
    old_target=st.none() | words,
)
kinds = st.sampled_from(["personas", "multi_hop", "out_of_distribution", "my kind"])
edits = st.builds(
    Edit,
    prompt=prompts,
    target=words,
    subject=st.none() | words,
    old_target=st.none() | words,
    rephrasings=st.lists(prompts, max_size=3).map(tuple),
    locality=st.lists(probes, max_size=3).map(tuple),
    further=st.dictionaries(kinds, st.lists(probes, min_size=1, max_size=2).map(tuple)),
)


def as_row(edit: Edit) -> dict[str, object]:
    return {
        "prompt": edit.prompt,
        "target": edit.target,
        "subject": edit.subject,
        "old_target": edit.old_target,
        "rephrasings": list(edit.rephrasings),
        "locality": [{"prompt": p.prompt, "answer": p.answer} for p in edit.locality],
        "further": {
            kind: [[p.prompt, p.answer] for p in found] for kind, found in edit.further.items()
        }
        or None,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, min_size=1, max_size=5))
def test_json_jsonl_and_parquet_give_back_the_edits_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[Edit]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [as_row(edit) for edit in written]
    array = write_json(folder / "a.json", rows)
    lines = folder / "a.jsonl"
    # Unescaped, so that the line separators of Unicode stand in the lines.
    lines.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    table = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)

    assert edits_of(array) == written
    assert edits_of(lines) == written
    assert edits_of(table) == written


@settings(max_examples=40, deadline=None)
@given(st.lists(texts_only, min_size=1, max_size=5))
def test_csv_gives_back_the_edits_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[Edit]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "target", "subject", "old_target"])
        out.writerows((e.prompt, e.target, e.subject, e.old_target) for e in written)
    assert edits_of(path) == written


def test_dataset_records_absolute_path_digest_and_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(tmp_path / "facts.json", [FACT])
    monkeypatch.chdir(tmp_path)
    assert open_dataset("facts.json", licence="MIT") == Dataset(
        uri=str(path),
        revision=None,
        sha256=sha256(path.read_bytes()).hexdigest(),
        format="json",
        layout="canonical",
        mapping={},
        licence="MIT",
    )


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (
            "lines.json",
            b'{"prompt": "a", "target": "b"}\n{"prompt": "c", "target": "d"}\n',
            "jsonl",
        ),
        ("array.jsonl", b'[{"prompt": "a", "target": "b"}]', "json"),
        ("no-ending", b'\n [{"prompt": "a", "target": "b"}]', "json"),
        ("one.ndjson", b'{"prompt": "a", "target": "b"}', "jsonl"),
        ("mark.json", b'\xef\xbb\xbf[{"prompt": "a", "target": "b"}]', "json"),
        ("mark.jsonl", b'\xef\xbb\xbf{"prompt": "a", "target": "b"}', "jsonl"),
        ("mark.csv", b"\xef\xbb\xbfprompt,target\r\na,b\r\n", "csv"),
        ("UPPER.CSV", b"prompt,target\na,b\n", "csv"),
    ],
)
def test_format_follows_the_content(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert open_dataset(str(path)).format == kind
    assert edits_of(path)[0] == Edit(prompt="a", target="b")


def test_parquet_is_known_without_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "table"
    pq.write_table(pa.Table.from_pylist([FACT]), path)
    assert open_dataset(str(path)).format == "parquet"


# --- offset, limit, memory --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [(0, None, range(7)), (3, 2, range(3, 5)), (5, 9, range(5, 7)), (9, 1, []), (2, 0, [])],
)
def test_offset_and_limit_keep_absolute_row_numbers(
    tmp_path: Path, offset: int, limit: int | None, expected: Sequence[int]
) -> None:
    dataset = open_dataset(str(write_json(tmp_path / "a.json", numbered(7))))
    rows = list(read_rows(dataset, offset=offset, limit=limit))
    assert [row.number for row in rows] == list(expected)
    assert [row.edit and row.edit.target for row in rows] == [f"n{i}" for i in expected]


def test_unusable_rows_count_for_the_limit(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [FACT, {"prompt": "x", "target": ""}, FACT])
    rows = list(read_rows(open_dataset(str(path)), limit=2))
    assert [(row.number, row.reason) for row in rows] == [(0, None), (1, "empty target")]


@pytest.mark.parametrize(("offset", "limit"), [(-1, None), (0, -1)])
def test_negative_offset_or_limit_is_refused_before_reading(
    tmp_path: Path, offset: int, limit: int | None
) -> None:
    dataset = open_dataset(str(write_json(tmp_path / "a.json", [FACT])))
    with pytest.raises(SettingError, match="-1"):
        read_rows(dataset, offset=offset, limit=limit)


def peak_while_reading(path: Path) -> tuple[int, int]:
    """The number of rows, and the peak of traced memory in bytes while they stream."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(open_dataset(str(path))))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "between"), [("big.json", ",\n"), ("big.jsonl", "\n")])
def test_a_big_file_is_not_loaded_into_memory(tmp_path: Path, name: str, between: str) -> None:
    line = json.dumps({"prompt": "x" * 4900 + " is", "target": "y" * 100})
    text = between.join([line] * 4_000)
    path = tmp_path / name
    path.write_text(f"[{text}]" if name.endswith("json") else text)
    assert path.stat().st_size > 20_000_000
    del text
    count, peak = peak_while_reading(path)
    assert count == 4_000
    assert peak < 4_000_000


def test_rows_longer_than_the_window_are_read_whole(tmp_path: Path) -> None:
    long = "é" * 1_000_000
    rows = [{"prompt": f"{i} {long}", "target": 'a, ]}\\"'} for i in range(3)]
    path = write_json(tmp_path / "long.json", rows)
    assert edits_of(path) == [Edit(prompt=row["prompt"], target=row["target"]) for row in rows]


@pytest.mark.parametrize("pad", range(0, 40, 3))
def test_values_cut_at_the_end_of_a_window_are_read_whole(tmp_path: Path, pad: int) -> None:
    # The window is 2**18 bytes: every pad moves another part of the second row over its edge.
    first = json.dumps({**FACT, "note": ""})
    first = first[:-2] + "x" * (2**18 - len(first) - 40 + pad) + first[-2:]
    second = '{"prompt": "\\ud83d\\ude00 \\n", "target": 1234567890, "f": [-1.5e-7, null]}'
    path = tmp_path / "cut.json"
    path.write_text(f"[{first} , {second}]")
    assert edits_of(path)[1] == Edit(prompt="\U0001f600", target="1234567890")


def test_reading_can_stop_before_damage_further_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(FACT) + "\n" + json.dumps(FACT) + "\nbroken\n")
    rows = read_rows(open_dataset(str(path)))
    assert [row.number for row in islice(rows, 2)] == [0, 1]
    with pytest.raises(DatasetError, match=r"a\.jsonl.*row 2, line 3"):
        next(rows)


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "is empty"),
        ("a.json", b" \n\t ", "is empty"),
        ("a.json", b"\xef\xbb\xbf", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.json", b"[]", "holds no rows"),
        ("a.csv", b"prompt,target\n", "holds no rows"),
        ("a.json", b'{"prompt": "a", "target": "b"}', "array of objects"),
        ("a.json", b'{"rows": [\n{"prompt": "a"}]}', "array of objects"),
        ("a.json", b"hello", "array of objects"),
        ("a.txt", b"hello", "no known format"),
        ("a.json", b"[1, 2]", "row 0 .*int"),
        ("a.jsonl", b'"text"\n', "row 0 .*str"),
        ("a.json", b"\xff\xfe[\x00{\x00", "not UTF-8: byte 0"),
        ("a.csv", b"The capital of Peru is,Lima\nThe capital of Chile is,Santiago\n", "first line"),
        ("a.csv", b",,\na,b,c\n", "must name its fields"),
        ("a.csv", b"prompt,target,target\na,b,c\n", "'target' is there more than once"),
        ("a.parquet", b"PAR1 and nothing else", "malformed Parquet"),
        ("a.parquet", b"not a table at all", "malformed Parquet"),
    ],
)
def test_files_that_hold_no_edits_say_why(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(str(path))
    assert str(path) in str(caught.value)


GOOD = b'{"prompt": "a", "target": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[%s,\n%s\n%s]", r"row 2, line 3: expected a comma"),
        ("a.json", b"[%s,\n{'prompt'},%s%s]", r"row 1, line 2: Expecting property name"),
        ("a.json", b"[%s,%s,%s", r"row 3, line 1: the file ends"),
        ("a.json", b"[%s,%s,%s,]", r"row 3, line 1: Expecting value"),
        ("a.json", b'[%s,%s,%s,{"prompt": "x', r"row 3, line 1: Unterminated string"),
        ("a.json", b"[%s,%s,%s] more", r"row 3, line 1: there is more text"),
        ("a.json", b"[%s,%s,%s," + b"[" * 99_999, r"row 3, line 1: .*nested too deeply"),
        ("a.json", b'[%s,%s,%s,\n{"prompt": "\xff"}]', r"not UTF-8: byte 107, in row 3"),
        ("a.json", b"[%s,%s,%s] \xc3", r"not UTF-8: byte 95, in row 3"),
        ("a.jsonl", b"%s\n%s\n\n%s x\n", r"row 2, line 4: Extra data"),
        ("a.jsonl", b"%s\n%s\n%s\n" + b"[" * 99_999, r"row 3, line 4: .*nested too deeply"),
        ("a.jsonl", b"%s\n%s\n%s\n \xff\n", r"not UTF-8: byte 94, in line 4"),
        ("a.csv", b"prompt,target\n%.1s,b\n%.1s,c\n%.1s,\xff\n", r"not UTF-8: byte 24, in line 4"),
        ("a.csv", b'prompt,target\n%.1s,b\n%.1s,c\n%.1s,"x', r"malformed CSV in row 2, line 4"),
        ("a.csv", b'prompt,target\n%.1s,b\n%.1s,c\n%.1s,"x"y\n', r"malformed CSV in row 2, line 4"),
    ],
)
def test_damage_further_on_names_file_row_and_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content % (GOOD, GOOD, GOOD))
    dataset = open_dataset(str(path))
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_rows(dataset))
    assert str(path) in str(caught.value)


def test_damaged_parquet_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(numbered(5_000)), path, compression="none")
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet: malformed Parquet"):
        open_dataset(str(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.json", "No such file"),
        (".", "is a folder"),
        ("https://example.org/facts.json", "Download it first"),
        ("~nobody-of-that-name/facts.json", "cannot be read"),
        ("a\0b.json", "cannot be read"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_sources_that_are_no_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=message):
        open_dataset(source)


def test_ragged_csv_rows_are_reported_and_the_next_ones_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,target\na,b\nc\nd,e,f\n\ng,h\n")
    rows = rows_of(path)
    assert [row.number for row in rows] == [0, 1, 2, 3]
    assert [row.reason for row in rows] == [
        None,
        "1 values, but the first line names 2 fields",
        "3 values, but the first line names 2 fields",
        None,
    ]


def test_csv_fields_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,target\n" + "x" * 300_000 + ",b\n")
    assert edits_of(path) == [Edit(prompt="x" * 300_000, target="b")]


# --- mapping ----------------------------------------------------------------------------------


def test_mapping_is_read_from_the_command_line_form() -> None:
    assert parse_mapping(" prompt = src,target=alt ") == {"prompt": "src", "target": "alt"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "KEY=FIELD"),
        ("prompt", "KEY=FIELD"),
        ("prompt=,target=b", "KEY=FIELD"),
        ("prompt=a,target=b,prompt=c", "twice"),
        ("prompt=a,target=b,answer=c", "unknown keys: answer"),
        ("target=b", "which field is prompt"),
        ("prompt=a,target=b,locality_prompt=c", "name both"),
    ],
)
def test_malformed_mappings_are_refused(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        parse_mapping(text)


# --- cost -------------------------------------------------------------------------------------


def test_importing_datasets_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "pyarrow", "datasets", "huggingface_hub", "numpy"]
    code = f"import sys, ledger.datasets; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
