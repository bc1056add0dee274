"""Settings: hyperparameters that count as a method's defaults in this ledger, and why they do.

The newest choice of a method counts. An empty one gives the built-in defaults back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ledger import chain, database, journal
from ledger.orm import SettingsRow
from ledger.wording import public_name
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from patches.editors import Request

MODULES, STEP = "modules", "step"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was chosen for a method. values: hyperparameter → value; none: the built-in defaults.

    evidence: ``reason``, or what `ledger.tuning` found.
    """

    method: str
    values: dict[str, Any]
    evidence: dict[str, Any]
    created_at: datetime

    @property
    def origin(self) -> str:
        """Where they come from, in a few words."""
        data = self.evidence.get("data")
        if data is None:
            return str(self.evidence.get("reason", "set by hand"))
        return f"tuned on {public_name(str(data))}"

    def to_json(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "evidence": self.evidence,
            "created_at": chain.timestamp(self.created_at),
        }


def chosen(ledger: Ledger, method: str) -> Settings | None:
    """The settings that count for a method; None if nothing was ever chosen."""
    query = select(SettingsRow).where(SettingsRow.method == method)
    with database.reading(ledger.engine) as session:
        row = session.scalars(query.order_by(SettingsRow.id.desc()).limit(1)).one_or_none()
        return None if row is None else _settings(row)


def choose(
    ledger: Ledger, method: str, values: Mapping[str, Any], evidence: Mapping[str, Any]
) -> Settings:
    """Let these values count from now on. Both are JSON values."""
    row = SettingsRow(
        method=method,
        values=dict(values),
        evidence=dict(evidence),
        created_at=datetime.now(UTC),
    )
    content = chain.settings_content(row, base=ledger.base.fingerprint)
    row.hash = chain.content_hash(content)
    with database.writing(ledger.engine) as session:
        session.add(row)
        journal.record(session, journal.SETTINGS, [row], at=row.created_at)
    return _settings(row)


def reset(ledger: Ledger, method: str) -> Settings:
    """Back to the built-in defaults of a method."""
    return choose(ledger, method, {}, {"reason": "reset to the built-in defaults"})


def _settings(row: SettingsRow) -> Settings:
    return Settings(
        method=row.method, values=row.values, evidence=row.evidence, created_at=row.created_at
    )


def under(settings: Settings | None, request: "Request") -> tuple["Request", tuple[str, ...]]:
    """What a user asks for, completed by the settings that count; and notes that say so.

    What the user gives wins, key by key. Modules that the user names take the place of chosen ones,
    with the values that hold for those only. A step that the user asks for in place of the chosen
    one takes nothing of it but the modules.
    """
    if settings is None or not settings.values:
        return request, ()
    values = _fitting(settings, request)
    modules = values.pop(MODULES, ())
    used = {name: value for name, value in values.items() if name not in request.assignments}
    told = [f"{name} {value}" for name, value in used.items()]
    if modules and not request.modules:
        told.insert(0, f"modules {modules[0]}" + (f" … {modules[-1]}" if len(modules) > 1 else ""))
    if not told:
        return request, ()
    completed = replace(
        request,
        modules=request.modules or tuple(modules),
        assignments={**{name: str(v) for name, v in used.items()}, **request.assignments},
    )
    note = (
        f"settings of this ledger ({settings.origin}): {', '.join(told)}; --set and --modules win "
        f"over them, ledger settings --reset {settings.method} takes them back"
    )
    return completed, (note,)


def _fitting(settings: Settings, request: "Request") -> dict[str, Any]:
    """Those of the chosen values that go with what the user asks for."""
    from patches.editors.search_space import SPACES

    values = dict(settings.values)
    step = request.assignments.get(STEP)
    if step is not None and step != values.get(STEP):
        values = {name: value for name, value in values.items() if name == MODULES}
    if request.modules and settings.method in SPACES:
        bound = SPACES[settings.method].for_modules
        values = {name: value for name, value in values.items() if name not in bound}
    return values
