"""Successive halving against a clock that only trials move."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from ledger.tuning_halving import Halving, Rung, Tried, ladder
from ledger.tuning_objective import METRICS, Objective, Scores, frontier
from patches.editors.search_space import Choice
from patches.errors import SettingError

DEFAULT, PUBLISHED = Choice(), Choice(values={"step": "published"})
NAMES = {DEFAULT.key: "default", PUBLISHED.key: "published"}
SMALL, LARGE = Rung(turns=2, size=3), Rung(turns=2, size=9)


def other(number: int, **more: object) -> Choice:
    """Choice whose scores are `number` thousandths, and stability .5 unless something is said."""
    return Choice(values={"share": number, **more})


def scores(choice: Choice) -> Scores:
    share = float(choice.values.get("share", 500)) / 1000
    return {
        "edit_success": share,
        "generalization": share,
        "stability": float(choice.values.get("stability", 0.5)),
    }


class Bench:
    """Trials that take a second for each edit. failing: shares that the method cannot do."""

    def __init__(self, *, known: Sequence[tuple[Rung, Choice]] = (), failing: int = -1) -> None:
        self.now = 0.0
        self.made: list[tuple[Rung, Choice]] = []
        self._known = list(known)
        self._failing = failing

    def known(self, rung: Rung, choice: Choice) -> bool:
        return (rung, choice) in self._known

    def run(self, rung: Rung, some: Sequence[Choice]) -> Iterator[Tried]:
        for choice in some:
            if not self.known(rung, choice):
                self.now += rung.edits
                self.made.append((rung, choice))
            failed = choice.values.get("share") == self._failing
            yield Tried(
                choice=choice,
                name=NAMES.get(choice.key),
                hyperparameters={},
                scores={} if failed else scores(choice),
                earlier=None,
                outcomes=(),
                failure="it blew up" if failed else None,
                seconds=float(rung.edits),
            )


def halved(
    bench: Bench, others: Sequence[Choice], *, until: float, prefer: str = "balance"
) -> Halving:
    halving = Halving(
        objective=Objective(prefer=prefer),
        run=bench.run,
        known=bench.known,
        spent=lambda: bench.now,
        until=until,
        built_in=("default", "published"),
    )
    for _ in halving.search([SMALL, LARGE], [DEFAULT, PUBLISHED], others):
        pass
    return halving


def choices(halving: Halving, rung: int) -> list[Choice]:
    return [one.choice for one in halving.rungs_done[rung]]


def test_the_best_third_goes_on_and_the_references_with_it() -> None:
    bench = Bench()
    halving = halved(bench, [other(n) for n in (400, 700, 600, 100, 800, 300)], until=1000)
    assert choices(halving, 0)[:2] == [DEFAULT, PUBLISHED]
    assert choices(halving, 1) == [DEFAULT, PUBLISHED, other(800), other(700)]
    assert halving.best().choice == other(800)


def test_without_anything_better_a_reference_is_chosen() -> None:
    assert halved(Bench(), [other(100), other(200)], until=1000).best().name == "default"


def test_choices_that_give_up_stability_come_last() -> None:
    wild = [other(900, stability=0.2), other(700, stability=0.49), other(650)]
    halving = halved(Bench(), wild, until=1000)
    assert halving.objective.floor == pytest.approx(0.48)
    assert halving.best().choice == other(700, stability=0.49)


def test_what_failed_does_not_go_on() -> None:
    halving = halved(Bench(failing=900), [other(900), other(600), other(550)], until=1000)
    assert choices(halving, 1) == [DEFAULT, PUBLISHED, other(600)]


def test_each_rung_gets_its_share_of_the_time_and_the_search_ends_in_time() -> None:
    bench = Bench()
    halving = halved(bench, [other(n) for n in range(400)], until=300)
    first = 6 * len(choices(halving, 0))
    assert 140 <= first <= 150
    assert 280 <= bench.now <= 300
    assert len(choices(halving, 1)) > 3


def test_the_default_is_tried_however_little_time_there_is() -> None:
    bench = Bench()
    halving = halved(bench, [other(600)], until=1)
    assert [choice for _, choice in bench.made] == [DEFAULT]
    assert halving.best().name == "default"


def test_a_rung_that_there_is_no_time_for_is_left_out() -> None:
    halving = halved(Bench(), [other(700), other(600)], until=40)
    assert len(halving.rungs_done) == 1
    assert halving.best().choice == other(700)


def test_the_best_come_first_where_time_ends_on_the_second_rung() -> None:
    # 9 others and 2 references take 66 s on the first rung, 18 s each on the second.
    halving = halved(Bench(), [other(n) for n in range(600, 690, 10)], until=66 + 3 * 18 + 12)
    assert choices(halving, 1) == [DEFAULT, PUBLISHED, other(680)]


def test_what_is_known_costs_no_time_and_is_used_after_it_has_run_out() -> None:
    others = [other(n) for n in (550, 600, 650)]
    known = [
        *((SMALL, choice) for choice in (DEFAULT, PUBLISHED, *others)),
        *((LARGE, choice) for choice in (DEFAULT, PUBLISHED, other(650))),
    ]
    bench = Bench(known=known)
    bench.now = 5000
    halving = halved(bench, [*others, other(900)], until=300)
    assert bench.made == []
    assert halving.best().choice == other(650)


@pytest.mark.parametrize(
    ("turns", "size", "smallest", "expected"),
    [
        (2, 100, 60, [(2, 34), (2, 100)]),
        (5, 100, 60, [(2, 84), (5, 100)]),
        (5, 100, 40, [(2, 28), (2, 84), (5, 100)]),
        (2, 10, 6, [(2, 4), (2, 10)]),
        (1, 30, 60, [(1, 10), (1, 30)]),
        (2, 2, 60, [(2, 2)]),
    ],
)
def test_rungs_grow_by_about_three(
    turns: int, size: int, smallest: int, expected: list[tuple[int, int]]
) -> None:
    rungs = ladder(turns, size, smallest=smallest)
    assert [(rung.turns, rung.size) for rung in rungs] == expected
    assert all(2 * a.edits < b.edits for a, b in pairwise(rungs))


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [(0.9, 0.5, 0.5), (0.5, 0.9, 0.5), (0.8, 0.5, 0.5), (0.9, 0.5, 0.5), (0.1, 0.1, 0.6)]
    made = [dict(zip(METRICS, point, strict=True)) for point in points]
    assert frontier(made) == [0, 1, 4]


def test_a_preference_weighs_double() -> None:
    one = {"edit_success": 0.8, "generalization": 0.4, "stability": 0.6}
    assert Objective(prefer="balance").value(one) == pytest.approx(0.6)
    assert Objective(prefer="success").value(one) == pytest.approx(0.65)
    assert Objective(prefer="stability").value(one) == pytest.approx(0.6)


def test_what_was_not_measured_does_not_count() -> None:
    assert Objective(prefer="balance").value({"edit_success": 0.8, "stability": 0.6}) == 0.7
    assert Objective(prefer="success").value({}) == 0


def test_the_floor_is_a_little_below_the_less_stable_of_the_built_in_settings() -> None:
    objective = Objective(prefer="balance").beside([{"stability": 0.7}, {"stability": 0.6}, {}])
    assert objective.floor == pytest.approx(0.58)
    assert objective.meets({"stability": 0.59})
    assert not objective.meets({"stability": 0.57})
    assert objective.meets({})
    assert Objective(prefer="balance").beside([{}]).floor is None


def test_an_unknown_preference_is_refused() -> None:
    with pytest.raises(SettingError, match="--prefer is one of balance, success, stability"):
        Objective(prefer="speed")
