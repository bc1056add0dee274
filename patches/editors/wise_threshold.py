"""When a prompt goes to a side memory: its threshold, from the activations of known prompts."""

from collections.abc import Iterable

from torch import Tensor

from patches.canonical import sha256
from patches.dtypes import tensor_bytes
from patches.side_memory import Activations, Form, Routing

# So that rounding does not turn away the edit that the threshold is taken from.
_SLACK = 1 - 1e-3


def measured_routing(
    form: Form, *, edits: Iterable[float], others: Iterable[float], share: float, main: Tensor
) -> Routing:
    """The routing of a memory, from the activations of its edits' prompts and of others.

    share: see `threshold`.  main: the main weight that the memory is relative to, as it is stored.
    """
    inside, outside = Activations.of(edits), Activations.of(others)
    return Routing(
        form=form.name,
        activation=form.activation,
        threshold=threshold(inside, outside, share),
        main=sha256(tensor_bytes(main)),
        edits=inside,
        others=outside,
    )


def threshold(edits: Activations, others: Activations, share: float) -> float:
    """ε between the strongest prompt outside and the weakest edit; the latter where these cross.

    share: 0 to 1, how far from the former to the latter. 1 is the paper's: min over the edits.
    """
    outside = others.max if others.max < edits.min else edits.min
    return (outside + share * (edits.min - outside)) * _SLACK
