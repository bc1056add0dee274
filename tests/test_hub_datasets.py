"""Datasets on the Hub: read through the real client, from a server on this machine."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.datasets import open_dataset
from ledger.sources import parse_address
from patches.errors import DatasetError
from tests.loopback_hub import COMMIT, run_against, serve

FACTS = [{"prompt": f"The capital of land {i} is", "target": f"city {i}"} for i in range(3)]
FILES = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\nFacts.\n",
    "data/train.json": json.dumps(FACTS).encode(),
}
# Prints what a reader of every address gets, or the error's text, after its name.
READ = """
import sys
from ledger.datasets import open_dataset, read_rows
from patches.errors import DatasetError
for source in sys.argv[1:]:
    print("READ", source)
    try:
        dataset = open_dataset(source)
        print(dataset)
        for row in read_rows(dataset, offset=1):
            print(row.number, row.edit.prompt, "->", row.edit.target)
    except DatasetError as error:
        print("DatasetError:", error)
"""
FILE, WHOLE = "hf://datasets/team/facts@main/data/train.json", "hf://datasets/team/facts"
ABSENT = (
    "hf://datasets/team/absent/data/train.json",
    "hf://datasets/team/facts/data/absent.json",
    "hf://datasets/team/facts?split=absent",
)


def read_in_new_process(endpoint: str, home: Path, *sources: str) -> dict[str, str]:
    """What READ prints of each. The client takes its settings when it is imported, hence the
    process."""
    done = run_against(endpoint, home, ["-c", READ, *sources])
    assert done.returncode == 0, done.stderr
    parts = [part.partition("\n") for part in done.stdout.split("READ ")[1:]]
    return {source: printed for source, _, printed in parts}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is printed of every address; read only."""
    with serve("datasets", "team/facts", FILES, {"license": "cc-by-4.0"}) as address:
        return read_in_new_process(address, tmp_path_factory.mktemp("home"), FILE, WHOLE, *ABSENT)


def test_a_file_on_the_hub_is_read_at_a_pinned_commit(printed: dict[str, str]) -> None:
    described, *rows = printed[FILE].splitlines()
    digest = sha256(FILES["data/train.json"]).hexdigest()
    assert f"uri='hf://datasets/team/facts@{COMMIT}/data/train.json'" in described
    assert f"revision='{COMMIT}', sha256='{digest}', format='json'" in described
    assert "licence='cc-by-4.0'" in described
    assert rows == [
        "1 The capital of land 1 is -> city 1",
        "2 The capital of land 2 is -> city 2",
    ]


def test_a_whole_repository_is_streamed_at_a_pinned_commit(printed: dict[str, str]) -> None:
    described, *rows = printed[WHOLE].splitlines()
    assert f"uri='hf://datasets/team/facts@{COMMIT}?split=train'" in described
    assert "format='hub', layout='canonical'" in described
    assert rows == [
        "1 The capital of land 1 is -> city 1",
        "2 The capital of land 2 is -> city 2",
    ]


@pytest.mark.parametrize("source", ABSENT)
def test_what_the_hub_does_not_have_is_an_error_that_names_it(
    printed: dict[str, str], source: str
) -> None:
    assert printed[source].startswith("DatasetError: hf://datasets/team/")
    assert "absent" in printed[source]
    assert "could not be read from the Hub" in printed[source]


def test_a_hub_out_of_reach_is_an_error_that_says_so(tmp_path: Path) -> None:
    # Port 9 (discard) has no listener.
    source = "hf://datasets/team/facts/a.json"
    said = read_in_new_process("http://127.0.0.1:9", tmp_path, source)[source]
    assert said.startswith(f"DatasetError: {source} could not be read")
    assert "the network" in said


def test_a_repository_without_the_datasets_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"pip install edit-ledger\[datasets\]"):
        open_dataset("hf://datasets/team/facts")


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/team/facts",
        "hf://datasets/team/facts@v1.0",
        "hf://datasets/team/facts@refs%2Fpr%2F3/a/b.jsonl",
        "hf://datasets/team/facts@v1?config=en&split=test%5B%3A10%25%5D",
    ],
)
def test_addresses_are_written_as_they_were_read(text: str) -> None:
    assert str(parse_address(text)) == text


def test_special_revisions_may_be_written_with_slashes() -> None:
    address = parse_address("hf://datasets/team/facts@refs/convert/parquet/default/0.parquet")
    assert (address.revision, address.path) == ("refs/convert/parquet", "default/0.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://team/facts/a.json", "no address of a dataset"),
        ("hf://datasets/facts", "no address of a dataset"),
        ("hf://datasets/team/facts?splitt=test", "does not understand splitt"),
        ("hf://datasets/team/facts/a.json?split=test", "does not understand split"),
    ],
)
def test_malformed_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(text)
