"""When a prompt goes to a side memory: its threshold, from the activations of known prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from patches.canonical import sha256
from patches.deltas import Sparse
from patches.dtypes import tensor_bytes
from patches.editors.wise import Matrix
from patches.side_memory import Activations, Routing
from patches.tokens import Encoded

# So that rounding does not turn away the edit that the threshold is taken from.
_SLACK = 1 - 1e-3


@torch.no_grad()
def measured_routing(
    matrix: Matrix,
    delta: Sparse,
    *,
    edits: Sequence[Encoded],
    others: Sequence[Encoded],
    share: float,
    main: Tensor,
) -> Routing:
    """The routing of a memory: ε between the prompts of its edits and others.

    share: see `threshold`.  main: the main weight that `delta` is relative to, as it is stored.
    """
    dense = delta.dense(dtype=torch.float32, device=matrix.device)
    inside, beyond = (
        Activations.of(matrix.activations_of(list(dict.fromkeys(prompts)), dense))
        for prompts in (edits, others)
    )
    return Routing(
        form=matrix.form.name,
        activation=matrix.form.activation,
        threshold=threshold(inside, beyond, share),
        main=sha256(tensor_bytes(main)),
        edits=inside,
        others=beyond,
    )


def threshold(edits: Activations, others: Activations, share: float) -> float:
    """ε between the strongest prompt outside and the weakest edit; the latter where these cross.

    share: 0 to 1, how far from the former to the latter. 1 is the paper's: min over the edits.
    """
    outside = others.max if others.max < edits.min else edits.min
    return (outside + share * (edits.min - outside)) * _SLACK
