"""What can be entered where a page asks for a turn, or for a prompt."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.history import Step
from ledger.orm import EditRow
from ledger.page.site import Asked, Content, Site
from ledger.refs import HEAD, names_of_turns
from ledger.wording import counted

_TURNS, _NAMES, _PROMPTS = 20, 100, 3


def choices(site: Site, asked: Asked) -> list[Content]:
    """Names of states, with what each is: HEAD, branches and tags, the newest turns, the base."""
    return site.kept.of(asked.ledger, "choices", lambda: _choices(asked))


def _choices(asked: Asked) -> list[Content]:
    with database.reading(asked.ledger.engine) as session:
        line = history.line(session, asked.ledger.branch)
        named = _named(session)
    newest = [_choice(str(step.number), _told(step)) for step in line[: -_TURNS - 1 : -1]]
    head = _choice(HEAD, f"newest turn of {asked.ledger.branch}")
    return [head, *named[:_NAMES], *newest, _choice("0", "the base model")]


def _named(session: Session) -> list[Content]:
    found = {name: kind for names in names_of_turns(session).values() for kind, name in names}
    return [_choice(name, kind) for name, kind in sorted(found.items(), key=lambda one: one[::-1])]


def _told(step: Step) -> str:
    what = step.method or step.kind
    edits = f", {counted(step.edits, 'edits')}" if step.edits else ""
    return f"{what}{edits}" + ("" if step.in_force else ", rolled back")


def _choice(value: str, what: str) -> Content:
    return {"value": value, "what": what}


def prompts(site: Site, asked: Asked) -> list[str]:
    """Prompts to begin with: the first of the newest turn whose edits are in force, and here."""
    return site.kept.of(asked.ledger, "prompts", lambda: _prompts(asked))


def _prompts(asked: Asked) -> list[str]:
    with database.reading(asked.ledger.engine) as session:
        line = history.line(session, asked.ledger.branch)
        steps = [step for step in history.edits_in_force(line) if step.edits]
        for step in steps[: -_TURNS - 1 : -1]:
            query = select(EditRow.prompt).where(EditRow.turn_id == step.id)
            if found := session.scalars(query.order_by(EditRow.position).limit(_PROMPTS)).all():
                return list(dict.fromkeys(found))
    return []
