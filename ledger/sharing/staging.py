"""The folder that becomes a repository: the model, the history, or an adapter; and the card."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.applying import apply_to_folder, choose_state, provenance
from ledger.cards import Published, card
from ledger.cards.subject import FORMS
from ledger.hub import check_repo
from ledger.models import split_revision
from ledger.progress import Progress
from ledger.refs import Rev
from ledger.sharing.bundling import Files, bundle
from ledger.sharing.signing import SIGNATURE, sign
from ledger.turn import Turn
from ledger.workspace import Ledger
from patches.checkpoint_writer import PROVENANCE_FILE
from patches.errors import SettingError

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Push:
    """What to push, and where.

    repo: ``owner/name``, or ``owner/name@branch``; the branch is by default that of the ledger.
    form: ``model``, ``patch`` or ``adapter``. at: the state after this turn (default: the head).
    tag: default, ``turn-N``. base_model: the base's Hub id, ``@revision`` with it, where the ledger
    knows it as a folder. rank, max_error: for an adapter. key: a private key to sign with.
    """

    repo: str
    form: str = "model"
    at: Rev | None = None
    tag: str | None = None
    private: bool = False
    message: str = ""
    include_edits: bool = False
    base_model: str | None = None
    rank: int | None = None
    max_error: float | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SettingError(f"--as is one of {', '.join(FORMS)}, not {self.form!r}")
        if self.form != "adapter" and (self.rank is not None or self.max_error is not None):
            raise SettingError("--rank and --max-error are for --as adapter")


def staged(
    ledger: Ledger,
    push: Push,
    turns: Sequence[Turn],
    at: int,
    stage: Path,
    *,
    repo: str,
    tag: str,
    progress: Progress,
) -> tuple[dict[str, Path], list[str]]:
    """Everything that the repository should hold, in folder `stage`; with notes."""
    base, revision = _published_base(ledger, push)
    stage.mkdir()
    notes: list[str] = []
    errors: Mapping[str, float] = {}
    memories = False
    if push.form == "model":
        applied = apply_to_folder(ledger, stage, at=at, link=True, progress=progress)
        notes += applied.notes
        memories = bool(applied.memories)
        _rewrite_provenance(stage, push.form, base, revision)
    else:
        files: Files
        if push.form == "adapter":
            from ledger.exporting import state_adapter

            made = state_adapter(
                ledger,
                at=at,
                rank=push.rank,
                max_error=push.max_error,
                base_model=base,
                revision=revision,
                progress=progress,
            )
            files, notes, errors = dict(made.files), list(made.notes), made.errors
            files[PROVENANCE_FILE] = _provenance(ledger, push, at, base, revision, files)
        else:
            files = bundle(
                ledger,
                turns[:at],
                base={"uri": base, "revision": revision},
                provenance=_provenance(ledger, push, at, base, revision, ()),
                include_edits=push.include_edits,
            )
        _write(stage, files)
    what = Published(
        repo=repo,
        form=push.form,
        tag=tag,
        base_model=base,
        base_revision=revision,
        include_edits=push.include_edits,
        memories=memories,
        errors=errors,
        signed=push.key is not None,
    )
    # What lies there are links to the base's own, which must not be written to.
    for name in (CARD, SIGNATURE):
        (stage / name).unlink(missing_ok=True)
    (stage / CARD).write_text(card(ledger, turns, at, what), encoding="utf-8")
    if push.key is not None:
        sign(stage, push.key)
    names = sorted(p.relative_to(stage).as_posix() for p in stage.rglob("*") if p.is_file())
    return {name: stage / name for name in names}, notes


def _published_base(ledger: Ledger, push: Push) -> tuple[str | None, str | None]:
    """The Hub id and revision of the base; no folder of this machine is published."""
    if push.base_model is not None:
        name, revision = split_revision(push.base_model)
        return check_repo(name), revision
    if ledger.base.revision is not None:
        return ledger.base.uri, ledger.base.revision
    return None, None


def _provenance(
    ledger: Ledger,
    push: Push,
    at: int,
    base: str | None,
    revision: str | None,
    files: Sequence[str] | Mapping[str, object],
) -> bytes:
    """The content of ``ledger.json`` where no checkpoint is written."""
    content = {
        **provenance(ledger, choose_state(ledger, at), {}),
        "owner": ledger.base.ledger_id,
        "files": sorted({*files, PROVENANCE_FILE}),
    }
    return _public(content, push.form, base, revision)


def _rewrite_provenance(stage: Path, form: str, base: str | None, revision: str | None) -> None:
    path = stage / PROVENANCE_FILE
    content = json.loads(path.read_bytes())
    path.write_bytes(_public(content, form, base, revision))


def _public(content: dict[str, Any], form: str, base: str | None, revision: str | None) -> bytes:
    content["form"] = form
    content["base"] = {**content["base"], "uri": base, "revision": revision}
    return f"{json.dumps(content, sort_keys=True, indent=2, allow_nan=False)}\n".encode("ascii")


def _write(stage: Path, files: Files) -> None:
    for name, content in files.items():
        goal = stage / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            goal.write_bytes(content)
            continue
        try:
            os.link(content, goal)
        except OSError:
            shutil.copyfile(content, goal)
