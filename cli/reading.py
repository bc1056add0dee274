"""`ledger show` and `status`: one turn, and where the ledger stands."""

from pathlib import Path
from typing import Any

import click

from cli.options import TURN, branch_option, json_option, ledger_option, opened, print_json
from cli.rendering import print_facts, print_scores, print_table, settings, short, tell
from ledger.gates import FIGURE, verdict_line
from ledger.wording import counted, score, size, turn_numbers


@click.command(short_help="One turn in full: data, settings, scores, edits.")
@click.argument("turn", type=TURN)
@click.option(
    "--edits",
    "count",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Edits to list.",
)
@branch_option
@ledger_option
@json_option
def show(turn: int | str, count: int, ledger_dir: Path | None, as_json: bool) -> None:
    """One turn in full: its data, settings, scores and edits.

    \b
    Example: ledger show 3 --edits 100
    """
    from ledger.reporting import show as read_turn

    details = read_turn(opened(ledger_dir), turn).to_json()
    if as_json:
        print_json(details)
        return
    print_facts(_turn_facts(details))
    if details["scores"]:
        tell("")
        scores = details["scores"]
        print_scores(scores["base"], scores["state"], scores["n"])
    for skip in details["skipped_rows"]:
        tell(f"skipped row {skip['row']}: {skip['reason']}")
    if details["edit_list"]:
        tell("")
        _print_edits(details["edit_list"], count)
    elif details["edits"]:
        tell(f"the texts of its {counted(details['edits'], 'edits')} were not published")


def _turn_facts(details: dict[str, Any]) -> list[tuple[str, str]]:
    dataset, patch = details["dataset"], details["patch"]
    environment, seconds = details["environment"], details["seconds"]
    state = "rejected" if details["rejected"] else details["state"].replace("_", " ")
    if details["undone_by"]:
        state += f" by turn {details['undone_by']}"
    facts = [
        ("turn", f"{details['turn']} ({details['kind']}, {state})"),
        ("hash", details["hash"]),
        *([("names", ", ".join(details["refs"]))] if details["refs"] else []),
        ("parent", details["parent"] or "none: the first turn"),
        *([("copied", f"from {details['copied_from']}")] if details["copied_from"] else []),
        ("recorded", f"{details['created_at']} by {details['author']}"),
        ("message", details["message"] or "-"),
    ]
    if details["undoes"]:
        facts.append(("undoes", turn_numbers(details["undoes"])))
    if details["replaces"]:
        facts.append(("merges", turn_numbers(details["replaces"])))
    if dataset:
        first, last = details["rows"]
        facts.append(("dataset", f"{dataset['uri']} ({dataset['layout']}, {dataset['format']})"))
        facts.append(("", f"rows {first} to {last}, SHA-256 {dataset['sha256']}"))
    if details["method"]:
        facts.append(("method", f"{details['method']} {settings(details['hyperparameters'])}"))
        if modules := details["hyperparameters"].get("modules"):
            facts.append(("modules", _names(modules)))
    if patch:
        ranks = sorted({rank for rank in patch["rank"].values() if rank is not None})
        rank = (
            f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "") if ranks else ""
        )
        tensors = f"{counted(len(patch['rank']), 'tensors')}{rank}"
        facts.append(("patch", f"{patch['digest']} ({size(patch['bytes'])}, {tensors})"))
    if details["retention"]:
        facts.append(("retention", _retention(details["retention"])))
    facts += [(one["suite"], _suite(one)) for one in details["suites"]]
    if gate := details["figures"].pop(FIGURE, None):
        facts.append(("gate", verdict_line(gate)))
    facts += [(name, _figure(value)) for name, value in details["figures"].items()]
    facts.append(("seconds", _pairs({k: f"{v:.2f}" for k, v in seconds.items()})))
    if details["peak_memory"]:
        facts.append(("memory", f"{size(details['peak_memory'])} at the most"))
    facts.append(("with", _pairs({**environment.pop("versions", {}), **environment})))
    facts += [
        ("pushed", f"{p['repo']} as {p['form']}, tag {p['tag']}, commit {p['commit'][:12]}")
        for p in details["published"]
    ]
    facts += [("note", note) for note in details["notes"]]
    return facts


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)})"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _retention(kept: dict[str, Any]) -> str:
    was = "" if kept["then"] is None else f", {score(kept['then'])} when they were made"
    return f"edit success {score(kept['now'])} of {counted(kept['n'], 'earlier edits')}{was}"


def _suite(one: dict[str, Any]) -> str:
    """The main score of a suite, or all where it has none."""
    every = [key for key in one["state"] if not key.endswith("_stderr")]
    shown = [one["metric"]] if one["metric"] else every
    told = [f"{key} {score(one['state'][key])} (base {score(one['base'][key])})" for key in shown]
    return f"{', '.join(told)}; n = {one['n']:,}"


def _figure(value: Any) -> str:
    """A number, or the range of many."""
    if isinstance(value, list):
        return f"{min(value):.3g} to {max(value):.3g}, mean {sum(value) / len(value):.3g}"
    return f"{value:.6g}"


def _print_edits(edits: list[dict[str, Any]], count: int) -> None:
    headings = ["row", "prompt", "old", "new", "base", "edited"]
    rows = [
        [
            "-" if edit["row"] is None else str(edit["row"]),
            short(edit["prompt"], 60),
            short(edit["old_target"] or "-", 20),
            short(edit["target"], 20),
            score(edit["base"]["edit_success"]) if edit["base"] else "-",
            score(edit["state"]["edit_success"]) if edit["state"] else "-",
        ]
        for edit in edits[:count]
    ]
    if any(edit["overrides"] or edit["overridden_by"] for edit in edits):
        headings.append("conflict")
        rows = [[*row, _conflict(edit)] for row, edit in zip(rows, edits[:count], strict=True)]
    print_table(headings, rows, right="row|base|edited")
    if len(edits) > count:
        tell(f"… and {len(edits) - count} more (--edits {len(edits)})")


def _conflict(edit: dict[str, Any]) -> str:
    """Which turns have another answer to the edit's question."""
    told = [f"overrides {turn_numbers(edit['overrides'])}"] if edit["overrides"] else []
    if edit["overridden_by"]:
        told.append(f"overridden by turn {edit['overridden_by']}")
    return ", ".join(told) or "-"


@click.command(short_help="Where the ledger stands: base, branch, newest scores.")
@branch_option
@ledger_option
@json_option
def status(ledger_dir: Path | None, as_json: bool) -> None:
    """Where the ledger stands: base, branch, what is in force, newest scores.

    \b
    Example: ledger status --json
    """
    from ledger.reporting import status as read_status

    found = read_status(opened(ledger_dir)).to_json()
    if as_json:
        print_json(found)
        return
    kinds = found["turns"]
    print_facts(
        [
            ("ledger", found["ledger"]),
            ("database", f"{found['database']} (schema {found['schema']})"),
            ("patches", f"{found['store']} ({_stored(found)})"),
            ("base", f"{found['model']} ({found['architecture']})"),
            ("fingerprint", found["fingerprint"]),
            ("branch", f"{found['branch']} at turn {found['turn']} ({found['hash'][:12]})"),
            *_names_at_head(found),
            *_other_branches(found),
            (
                "in force",
                f"{found['edits_in_force']} of {counted(found['edits_recorded'], 'edits')} recorded"
                + (f"; {turn_numbers(found['in_force'])}" if found["in_force"] else ""),
            ),
            ("turns", _kinds(kinds)),
            *_publications(found["publications"]),
        ]
    )
    if found["scores"]:
        tell("")
        scores = found["scores"]
        print_scores(scores["base"], scores["state"], scores["n"])
        tell(f"scored at turn {scores['turn']}, {scores['created_at'][:16]}")


def _names_at_head(found: dict[str, Any]) -> list[tuple[str, str]]:
    tags = found["tags"]
    names = [f"tag {n}" if n in tags else n for n in found["refs"] if n != found["branch"]]
    return [("also", ", ".join(names))] if names else []


def _other_branches(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("" if number else "others", f"{name} at turn {turn}")
        for number, (name, turn) in enumerate(
            (name, turn) for name, turn in found["branches"].items() if name != found["branch"]
        )
    ]


def _publications(publications: list[dict[str, Any]]) -> list[tuple[str, str]]:
    lines = []
    for number, one in enumerate(publications):
        since = f"; {counted(one['ahead'], 'turns')} since" if one["ahead"] else ", up to date"
        what = f"{one['repo']}@{one['revision']} has the {one['form']} of turn {one['turn']}{since}"
        lines.append(("" if number else "pushed", what))
    return lines


def _kinds(kinds: dict[str, int]) -> str:
    more = "".join(
        f", {counted(kinds[kind], f'{kind}s')}" for kind in ("merge", "import") if kinds[kind]
    )
    rejected = f" ({kinds['rejected']} rejected)" if kinds["rejected"] else ""
    return f"{kinds['edit']} of edits{rejected}, {counted(kinds['rollback'], 'rollbacks')}{more}"


def _stored(found: dict[str, Any]) -> str:
    """How large the patches are, and what is kept beside them to be fast."""
    frames = found["keyframe_bytes"]
    return size(found["store_bytes"]) + (f", keyframes {size(frames)}" if frames else "")
