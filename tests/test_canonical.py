"""Canonical bytes: the quick ways give the very bytes of the general one."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import edit_digest
from patches.canonical import canonical_json, sha256
from patches.edit import Edit, Probe

# All of Unicode but lone surrogates, which no UTF-8 file can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROBES = st.lists(st.builds(Probe, prompt=TEXTS, answer=TEXTS), max_size=3).map(tuple)


@given(
    row=st.integers() | st.none(),
    texts=st.tuples(TEXTS, TEXTS, TEXTS | st.none(), TEXTS | st.none(), TEXTS),
    relation=TEXTS | st.none(),
)
def test_an_edit_is_hashed_as_the_json_of_its_list(
    row: int | None, texts: tuple[str, str, str | None, str | None, str], relation: str | None
) -> None:
    prompt, target, subject, old, probes = texts
    edit = Edit(prompt=prompt, target=target, subject=subject, old_target=old, relation=relation)
    hashed = [row, *texts, *([] if relation is None else [relation])]
    assert edit_digest(edit, row, probes) == sha256(canonical_json(hashed))


@given(
    rephrasings=st.lists(TEXTS, max_size=3).map(tuple),
    locality=PROBES,
    further=st.dictionaries(TEXTS, PROBES, max_size=3),
)
def test_probes_have_the_bytes_of_their_json(
    rephrasings: tuple[str, ...],
    locality: tuple[Probe, ...],
    further: dict[str, tuple[Probe, ...]],
) -> None:
    edit = Edit(prompt="p", target="t", rephrasings=rephrasings, locality=locality, further=further)
    assert edit.probes_json().encode() == canonical_json(edit.probes())
