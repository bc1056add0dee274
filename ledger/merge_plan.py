"""What merging a branch would do, and how it is to be done; reads the database only."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from ledger import database, history, refs
from ledger.branch_conflicts import (
    BranchConflict,
    conflicts_between,
    edits_without_texts,
    unfinished,
)
from ledger.divergence import Divergence, diverge
from ledger.facts import Fact
from ledger.merge_notes import MergeNote
from ledger.refs import Rev
from ledger.wording import counted
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError

SUM = "sum"
STRATEGIES = (SUM, "linear", "ties", "dare", "slerp")
OURS, THEIRS, ABORT = "ours", "theirs", "abort"
POLICIES = (OURS, THEIRS, ABORT)


@dataclass(frozen=True, kw_only=True)
class MergeBranch:
    """How to merge.

    strategy: ``sum`` adds up, the others blend the changes of both sides since they parted, by
    `density` and `weights` (ours, theirs) as in `patches.merging`. on_conflict: whose facts hold
    where both sides changed some. sample: edits of each side to score.
    """

    strategy: str = SUM
    density: float | None = None
    weights: tuple[float, ...] | None = None
    seed: int = 0
    on_conflict: str = ABORT
    message: str = ""
    evaluate: bool = True
    sample: int = 200
    device: str = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SettingError(
                f"--strategy is one of {', '.join(STRATEGIES)}, not {self.strategy!r}"
            )
        if self.on_conflict not in POLICIES:
            raise SettingError(
                f"--on-conflict is one of {', '.join(POLICIES)}, not {self.on_conflict!r}"
            )
        if self.strategy == SUM and (self.density is not None or self.weights is not None):
            raise SettingError("--strategy sum adds up: it takes no --density and no --weights")
        if self.weights is not None and len(self.weights) != 2:
            raise SettingError(
                f"--weights are two numbers, for this branch and the other one, not "
                f"{len(self.weights)}"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a merge would do. name: of what is merged.

    not_compared: edits of ours whose texts are not here, so that it is not known whether theirs
    contradicts them. pending: facts that an interrupted merge, of which `interrupted` tells, has
    left to be edited again; they come first.
    """

    name: str
    apart: Divergence
    conflicts: tuple[BranchConflict, ...]
    not_compared: int = 0
    interrupted: MergeNote | None = None
    pending: tuple[Fact, ...] = ()

    @property
    def head(self) -> str:
        """The hash of the turn that is merged."""
        return history.state_hash(self.apart.theirs)

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger merge --dry-run --json``; fields are only ever added."""
        apart = self.apart
        return {
            "branch": self.name,
            "head": self.head,
            "fork": apart.fork,
            "already_merged": apart.is_merged,
            "turns": [
                {
                    "turn": repeat.number,
                    "kind": repeat.source.kind,
                    "method": repeat.source.method,
                    "edits": repeat.source.edits,
                    "copied_from": {"turn": repeat.source.number, "hash": repeat.source.hash},
                    "replaces": list(repeat.replaces),
                }
                for repeat in apart.repeats
            ],
            "undoes": list(apart.undoes),
            "brings_back": list(apart.brought_back),
            "rolled_back_here": [step.number for step in apart.undone_here],
            "left_out": [
                {"turn": step.number, "reason": reason} for step, reason in apart.left_out
            ],
            "conflicts": [conflict.to_json() for conflict in self.conflicts],
            "not_compared": self.not_compared,
            "pending": [
                {"turn": fact.number, "prompt": fact.prompt, "target": fact.target}
                for fact in self.pending
            ],
        }


def plan_merge(ledger: Ledger, rev: Rev) -> Plan:
    """What merging the branch, tag or turn that `rev` names would do; reads the database only."""
    with database.reading(ledger.engine) as session:
        return _plan(session, ledger, rev)


def _plan(session: Session, ledger: Ledger, rev: Rev) -> Plan:
    ours = history.line(session, ledger.branch)
    theirs = history.line_to(session, refs.resolve(session, ledger.branch, rev))
    apart = diverge(session, ours, theirs)
    note, pending = unfinished(session, ours) or (None, [])
    return Plan(
        name=str(rev),
        apart=apart,
        conflicts=conflicts_between(session, apart),
        not_compared=edits_without_texts(session, apart),
        interrupted=note,
        pending=tuple(pending),
    )


def check_conflicts(plan: Plan, options: MergeBranch) -> None:
    """HistoryError if it must be said which side's facts are to hold."""
    if plan.conflicts and options.on_conflict == ABORT:
        facts = counted(len(plan.conflicts), "facts")
        raise HistoryError(
            f"{plan.name} and this branch have changed {facts} to different targets since turn "
            f"{plan.apart.fork}; nothing was recorded. Say which are to hold: --on-conflict "
            f"{OURS} or {THEIRS} (ledger merge {plan.name} --dry-run lists them)"
        )
