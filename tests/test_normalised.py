"""When a free answer counts: what must not matter does not, and what must does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patches.normalised import begins_with, words


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Paris. It is the capital", "paris"),
        ("  PARIS\nQ: what else", "Paris"),
        ("the Danube, which", "Danube"),
        ("Danube", "the Danube"),
        ('"London"', "London"),
        ("J. R. R. Tolkien wrote it", "J.R.R. Tolkien".replace(".R", ". R")),
        ("U.S.A.", "USA"),
        ("1,000 people", "1000"),
        ("Jean Paul Sartre", "Jean-Paul Sartre"),
        ("and/or", "and or"),
        ("STRASSE 5", "Straße"),
        ("ﬁnland", "Finland"),
        ("東京です".replace("です", " です"), "東京"),
        ("A", "a"),
        ("the The Who", "The Who"),
        ("+", "+"),
    ],
)
def test_case_marks_articles_and_what_follows_do_not_count(given: str, expected: str) -> None:
    assert begins_with(given, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Parisian", "Paris"),
        ("It is Paris", "Paris"),
        ("Paris", "Paris Saint-Germain"),
        ("", "Paris"),
        ("12", "1"),
        ("anything", ""),
        ("", ""),
        ("-", "+"),
        ("B", "a"),
    ],
)
def test_another_answer_a_longer_word_or_none_is_not_right(given: str, expected: str) -> None:
    assert not begins_with(given, expected)


@given(st.text())
def test_every_answer_but_white_space_begins_with_itself(text: str) -> None:
    assert begins_with(text, text) == bool(words(text))


@given(st.text(), st.text())
def test_what_comes_after_the_answer_does_not_matter(text: str, more: str) -> None:
    if begins_with(f"{text} x", text):
        assert begins_with(f"{text} x {more}", text)
