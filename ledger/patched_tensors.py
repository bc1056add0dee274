"""What is recorded of patches, without opening them: the tensors that they are about."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.history import chunks
from ledger.orm import BlobRow


def tensors_of(session: Session, digests: Sequence[str], *, memories: bool) -> set[str]:
    """The tensors that the patches with these digests change.

    memories: those too that they only put a side memory beside.
    """
    return {
        name
        for some in chunks(digests)
        for changes in session.scalars(select(BlobRow.changes).where(BlobRow.digest.in_(some)))
        for name, info in changes.items()
        if memories or "routing" not in info
    }
