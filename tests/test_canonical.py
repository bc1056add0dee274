"""Canonical bytes: the quick ways give the very bytes of the general one."""

from hypothesis import given
from hypothesis import strategies as st

from patches.canonical import canonical_json, canonical_row
from patches.edit import Edit, Probe

# All of Unicode but lone surrogates, which no UTF-8 file can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROBES = st.lists(st.builds(Probe, prompt=TEXTS, answer=TEXTS), max_size=3).map(tuple)


@given(st.lists(TEXTS | st.integers() | st.none(), max_size=6))
def test_a_row_has_the_bytes_of_the_same_list(values: list[str | int | None]) -> None:
    assert canonical_row(values) == canonical_json(values)


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
