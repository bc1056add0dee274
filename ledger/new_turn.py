"""What there is to record: a turn with its edits, files and scores, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ledger.datasets import Dataset
from ledger.stores import PatchStore
from patches.edit import Edit

if TYPE_CHECKING:
    from patches.patch import ChangeInfo


@dataclass(frozen=True, kw_only=True)
class RecordedEdit:
    """An edit with the number of its row in the dataset."""

    edit: Edit
    row: int | None


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file already in the store. changes: for a patch, what its header says."""

    digest: str
    bytes: int
    changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def keep(cls, store: PatchStore, path: Path, changes: "Mapping[str, ChangeInfo]") -> Self:
        """Make a finished patch from `PatchStore.arriving` one. changes: what its header says."""
        size = path.stat().st_size
        described = {name: info.to_json() for name, info in changes.items()}
        return cls(digest=store.keep(path), bytes=size, changes=described)


@dataclass(frozen=True, kw_only=True)
class NewEvaluation:
    """Scores to record: means, and per edit (base, state) in the order of the edits."""

    protocol: dict[str, Any]
    seed: int
    base: dict[str, Any]
    state: dict[str, Any]
    outcomes: Sequence[tuple[dict[str, Any], dict[str, Any]]]
    environment: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NewTurn:
    """A turn to record after turn `parent` (row id; None: the first).

    undoes: row ids of the turns that a rollback undoes. replaces: of those whose patches a merge
    takes the place of. undoes_new, replaces_new: the same for turns recorded together with this
    one, as places in their list, all before its own. dataset_id: row id of the dataset, where it
    is recorded already, in place of `dataset`. tensors: the state's digests. figures: JSON values
    of the method's own. evaluation: on the turn's own edits. samples: on some earlier ones, with
    the row ids and digests of these. copied_from: hash of the turn that this one repeats. needs:
    digests of earlier patches that its state is made from: where they could have been given up.
    """

    parent: int | None
    kind: str
    seed: int
    message: str
    method: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None
    dataset_id: int | None = None
    edits: Sequence[RecordedEdit] = ()
    skipped: Sequence[tuple[int, str]] = ()
    undoes: Sequence[int] = ()
    replaces: Sequence[int] = ()
    undoes_new: Sequence[int] = ()
    replaces_new: Sequence[int] = ()
    patch: Blob | None = None
    editor_state: Blob | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    evaluation: NewEvaluation | None = None
    samples: Sequence[tuple[NewEvaluation, Sequence[tuple[int, str]]]] = ()
    copied_from: str | None = None
    needs: Sequence[str] = ()
