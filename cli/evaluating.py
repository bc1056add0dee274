"""`ledger evaluate`: what does the model know, from all sides, beside the un-edited base."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.options import (
    STATE,
    TURN,
    at_option,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    opened,
    print_json,
    seed_option,
    workers_option,
)
from cli.rendering import print_scores, tell, write
from cli.watching import watching
from ledger.progress import Progress
from ledger.refs import Rev
from ledger.suites import EDITS, SUITES, TEACHER_FORCED, TEXT, TURNS, find
from ledger.wording import counted
from patches.errors import SettingError

if TYPE_CHECKING:
    from ledger.evaluating import Evaluated
    from ledger.jobs import Crew
    from ledger.suites.triangle import Triangle
    from ledger.workspace import Ledger

_ALWAYS = {"ledger_dir", "as_json", "branch"}
_MODEL = {"seed", "device", "dtype"}
# What a suite can be asked for, by what it is scored on.
_TAKES = {
    EDITS: {"at", "turn", "sample", "per_edit"},
    TEXT: {"at", "text"},
    TURNS: {"at", "sample", "states"},
}
# The ways of this command that are no suite: its option → what goes with it.
_WAYS = {
    "listing": set[str](),
    "compare": {"turn", "sample", "workers", *_MODEL},
    "lm_eval": {"at", "lm_eval_path", "limit", *_MODEL},
}


@click.command(short_help="Score a state beside the un-edited base, from many sides.")
@click.option(
    "--suite",
    "names",
    metavar="NAME",
    multiple=True,
    help=f"What to look at (default: {TEACHER_FORCED}; several may be given); see --suites.",
)
@click.option("--suites", "listing", is_flag=True, help="List the suites, and do nothing.")
@at_option
@click.option("--turn", type=TURN, help="Only the edits of this turn.")
@click.option(
    "--sample",
    type=int,
    metavar="K",
    help="Only K of the edits, drawn by the seed; for retention K of each turn's (default: 20).",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The text that perplexity and general read, in UTF-8 (default: the first chapter of Alice "
    "in Wonderland).",
)
@click.option(
    "--states", type=int, metavar="N", help="For retention: N states at most (default: 20)."
)
@click.option(
    "--compare",
    type=STATE,
    nargs=2,
    metavar="A B",
    help="Score the states at A and B on the same edits: what is better, worse, flipped, and is it "
    "more than chance?",
)
@click.option(
    "--lm-eval",
    metavar="TASKS",
    help="Run tasks of lm-evaluation-harness, with commas between them (needs the extra lm-eval).",
)
@click.option(
    "--lm-eval-path",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder with tasks of your own; functions that they name are run.",
)
@click.option(
    "--limit", type=int, metavar="N", help="For --lm-eval: examples of each task, the first ones."
)
@click.option("--edits", "per_edit", is_flag=True, help="With --json: the outcome of every edit.")
@workers_option
@seed_option
@device_option
@dtype_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def evaluate(
    names: tuple[str, ...],
    listing: bool,
    compare: tuple[Rev, Rev] | None,
    lm_eval: str | None,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a state on the edits in force, beside the un-edited base, and record the scores.

    \b
    Example: ledger evaluate --at 5
             ledger evaluate --turn 3 --json
             ledger evaluate --suite generation --suite perplexity --text notes.txt
             ledger evaluate --compare 3 HEAD
             ledger evaluate --lm-eval arc_easy --limit 100

    Scores have 95 % intervals by the bootstrap: over edits, or blocks of text. Several suites give
    one JSON array, in their order.
    """
    chosen = list(dict.fromkeys(names)) or [TEACHER_FORCED]
    _check(chosen)
    if listing:
        _list_suites(as_json)
    elif compare is not None:
        _compare(opened(ledger_dir), compare, options, as_json)
    elif lm_eval is not None:
        _run_harness(opened(ledger_dir), lm_eval, options, as_json)
    else:
        _score(opened(ledger_dir), chosen, options, as_json)


def _check(chosen: list[str]) -> None:
    """SettingError for a suite that there is not, and for an option that would do nothing."""
    suites = [find(name) for name in chosen]
    context = click.get_current_context()
    given = {
        name: option.opts[0]
        for option in context.command.params
        if (name := option.name) is not None
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    way = next((name for name in _WAYS if name in given), None)
    if way is not None:
        taken, what = _WAYS[way] | {way}, given[way]
    else:
        taken = {"names", "workers", *_MODEL}.union(*(_TAKES[suite.on] for suite in suites))
        what = f"--suite {' '.join(suite.name for suite in suites)}"
    lost = [flag for name, flag in given.items() if name not in taken | _ALWAYS]
    if lost:
        raise SettingError(f"{' and '.join(lost)}: no use with {what} (see ledger evaluate --help)")


def _list_suites(as_json: bool) -> None:
    told = [
        {"name": one.name, "on": one.on, "metric": one.main, "sentence": one.sentence}
        for one in SUITES.values()
    ]
    if as_json:
        print_json(told)
        return
    formatter = click.get_current_context().make_formatter()
    formatter.write_dl([(one.name, one.sentence) for one in SUITES.values()])
    write(formatter.getvalue(), end=False)


def _compare(
    ledger: "Ledger", states: tuple[Rev, Rev], options: dict[str, Any], as_json: bool
) -> None:
    from cli.comparing_states import print_comparison

    a, b = states
    wanted = {name: options[name] for name in _WAYS["compare"]}
    print_comparison(ledger, a, b, **wanted, as_json=as_json)


def _run_harness(ledger: "Ledger", tasks: str, options: dict[str, Any], as_json: bool) -> None:
    from cli.harness import run_harness

    wanted = {name: options[name] for name in ("at", "limit", *_MODEL)}
    run_harness(ledger, tasks, path=options["lm_eval_path"], **wanted, as_json=as_json)


def _score(ledger: "Ledger", chosen: list[str], options: dict[str, Any], as_json: bool) -> None:
    """One suite after the other, on one model."""
    from ledger.jobs import crew

    where = {name: options[name] for name in ("device", "dtype")}
    with crew(ledger, options["workers"], **where) as workers:
        found = _found(ledger, chosen, options, workers, quiet=as_json)
        if as_json:
            told = [_json(one, per_edit=options["per_edit"]) for one in found]
            print_json(told if len(told) > 1 else told[0])
            return
        for place, one in enumerate(found):
            if place:
                tell("")
            _print(one)


def _found(
    ledger: "Ledger",
    chosen: list[str],
    options: dict[str, Any],
    workers: "Crew",
    *,
    quiet: bool,
) -> "Iterator[Evaluated | Triangle]":
    from ledger.evaluating import evaluate as score_state

    asked = {"at": options["at"], "seed": options["seed"], "dtype": options["dtype"]}
    for name in chosen:
        on = find(name).on
        with watching(quiet=quiet) as progress:
            if on == TURNS:
                found: Evaluated | Triangle = _retention(ledger, workers, options, progress, asked)
            else:
                wanted = {key: options[key] for key in _TAKES[on] - {"at", "per_edit"}}
                found = score_state(
                    ledger, suite=name, crew=workers, progress=progress, **asked, **wanted
                )
        yield found


def _retention(
    ledger: "Ledger",
    workers: "Crew",
    options: dict[str, Any],
    progress: Progress,
    asked: dict[str, Any],
) -> "Triangle":
    from ledger.suites.retention import retention

    sizes = {name: options[name] for name in ("sample", "states") if options[name] is not None}
    return retention(ledger, workers, progress=progress, **asked, **sizes)


def _json(found: "Evaluated | Triangle", *, per_edit: bool) -> dict[str, Any]:
    from ledger.evaluating import Evaluated

    return found.to_json(per_edit=per_edit) if isinstance(found, Evaluated) else found.to_json()


def _print(found: "Evaluated | Triangle") -> None:
    from ledger.evaluating import Evaluated

    if not isinstance(found, Evaluated):
        from cli.triangle import print_triangle

        print_triangle(found)
        return
    tell(f"the state at turn {found.turn} {_on_what(found)}, in {found.seconds:.1f} s")
    of = "tokens" if found.on_text else "edits"
    print_scores(found.base, found.state, found.n, of=of, intervals=found.intervals)


def _on_what(found: "Evaluated") -> str:
    if found.on_text:
        return f"on {found.protocol['text']}"
    whose = "the edits in force" if found.scope is None else f"the edits of turn {found.scope}"
    if found.sample is not None:
        whose = f"{counted(found.n, 'edits')} drawn from {whose}"
    return f"on {whose}"
