"""The errors that users see.

    EditLedgerError             every error this project raises on purpose
    ├── CheckpointError         a model folder: missing, damaged, refused as a target
    ├── PatchError              a patch or editor state: damaged, or not fitting its tensor
    ├── ModelError              a live model: unknown module, unsupported layer
    ├── EditingError            an editor cannot produce a usable shift
    ├── DatasetError            a source of edits: unreadable, unknown layout, bad mapping
    ├── HistoryError            turns and refs: no such turn, already rolled back, moved meanwhile
    ├── DatabaseError           the database: unreachable, without schema, too old or too new
    ├── HubError                the Hub: refuses, does not answer, has no such repository
    ├── ManifestError           a published history: damaged, altered, or for another base
    ├── StoreError              the patch store: missing, unwritable or damaged blob
    ├── WorkerError             workers that die over their work, again and again
    └── SettingError            an option or hyperparameter that makes no sense

A message says what failed, on which object (file, row, turn, tensor), and what to do next.
"""


class EditLedgerError(Exception):
    """Base class: catch this to catch everything the project raises on purpose."""


class CheckpointError(EditLedgerError):
    """A model folder is missing, damaged, not safetensors, or refused as a target."""


class PatchError(EditLedgerError):
    """A patch or editor-state file is damaged, or a delta does not fit its tensor."""


class ModelError(EditLedgerError):
    """A live model lacks a module, or has it in a form that cannot be edited."""


class EditingError(EditLedgerError):
    """An editor could not produce a usable shift."""


class DatasetError(EditLedgerError):
    """A source of edits cannot be read or understood."""


class HistoryError(EditLedgerError):
    """A turn or ref does not exist, is not in the needed state, or moved meanwhile."""


class DatabaseError(EditLedgerError):
    """The database cannot be reached, or its schema does not fit this program."""


class HubError(EditLedgerError):
    """The Hub cannot be reached, refuses, or does not have what is asked for."""


class ManifestError(EditLedgerError):
    """A published history is damaged, altered, or does not fit this ledger."""


class StoreError(EditLedgerError):
    """A blob of the patch store is missing, unwritable or damaged."""


class WorkerError(EditLedgerError):
    """Workers have died over a piece of work, again and again."""


class SettingError(EditLedgerError):
    """An option or hyperparameter makes no sense."""
