"""Try it: a prompt, answered by the base, the current state and any others, side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest

from ledger.history import Step, edits_in_force
from ledger.page.choices import choices, prompts
from ledger.page.lines import line_of
from ledger.page.site import Asked, Content, Site
from ledger.refs import HEAD, Rev
from ledger.searching import near

if TYPE_CHECKING:
    from ledger.trying import Said, Target, Tried, Trying

_BASE = 0
_TOKENS, _TURNS, _NEAR = 10, 6, 5


def add(site: Site) -> None:
    """Add the page."""
    model = _Model(site)

    @site.page("/try", "try.html", section="try")
    def trying(asked: Asked) -> Content:
        content: Content = {
            "has_model": site.has_model,
            "prompt": asked.text("prompt"),
            "turns": _turns(asked),
            "tokens": asked.number("tokens", _TOKENS),
            "is_loaded": model.is_loaded,
            "choices": choices(site, asked),
            "targets": [],
            "states": [],
            "near": [],
        }
        if not site.has_model:
            return content
        if not content["prompt"]:
            return {**content, "examples": prompts(site, asked)}
        return {**content, **_answers(site, asked, model, content), "is_loaded": True}


class _Model:
    """What is asked. It is made at the first question: it brings torch along."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._making = Lock()
        self._made: Trying | None = None

    @property
    def is_loaded(self) -> bool:
        return self._made is not None and self._made.is_loaded

    def ask(self, *asked: Any, **options: Any) -> "Tried":
        """See `ledger.trying.Trying.ask`."""
        with self._making:
            if self._made is None:
                from ledger.trying import Trying

                site = self._site
                self._made = Trying(site.ledger, device=site.device, dtype=site.dtype)
        return self._made.ask(*asked, **options)


def _turns(asked: Asked) -> list[str]:
    turns = list(dict.fromkeys(asked.texts("turn")))
    if len(turns) > _TURNS:
        raise BadRequest(f"{_TURNS} states beside the base and HEAD at most, not {len(turns)}")
    return turns


def _answers(site: Site, asked: Asked, model: _Model, content: Content) -> Content:
    """Asked once: to come back to a page takes no time."""
    prompt, tokens = content["prompt"], content["tokens"]
    states: list[Rev] = [_BASE, HEAD, *content["turns"]]

    def ask() -> Content:
        line = line_of(site, asked)
        tried = model.ask(prompt, states, branch=asked.ledger.branch, tokens=tokens)
        return {
            "targets": [asdict(target) for target in tried.targets],
            "states": [_told(said, tried.targets, line) for said in _different(tried.states)],
            "near": [one.to_json() for one in near(asked.ledger, prompt, count=_NEAR)],
        }

    return site.kept.of(asked.ledger, ("try", prompt, tuple(states), tokens), ask)


def _different(states: Iterable["Said"]) -> list["Said"]:
    """Each state once, however it was named."""
    found: dict[str | None, Said] = {}
    for said in states:
        key = f"{said.asked}: none" if said.turn is None else said.hash
        found.setdefault(key, said)
    return list(found.values())


def _told(said: "Said", targets: Iterable["Target"], line: Sequence[Step]) -> Content:
    """wanted: what the newest edit of this prompt that is in force in the state wants it to answer;
    None if there is none, or the state is not one of the branch."""
    turn = said.turn or 0
    is_on_line = 0 < turn <= len(line) and line[turn - 1].hash == said.hash
    in_force = {step.number for step in edits_in_force(line, turn)} if is_on_line else set()
    turns = {turn: target.text for target in targets for turn in target.wanted_by}
    newest = max(in_force & turns.keys(), default=None)
    wanted = None if newest is None else turns[newest]
    return {**said.to_json(), "wanted": wanted}
