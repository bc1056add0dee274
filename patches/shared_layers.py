"""What a state and its base have in common: the layers below the lowest one that was changed.

For the same tokens they give the same to the bit, so whoever asks both runs them once. A layer
hands one tensor to the next one and nothing else; only for architectures of which that is known
(`patches.packed`).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from patches.label_losses import forward_replaced
from patches.modules import parameters_by_tensor
from patches.packed import packable


class SharedLayers:
    """What the last of the shared layers has given, run by run, until it was used a second time."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        """layers: from the first one on, one at least."""
        self._layers = tuple(layers)
        self._given: dict[int, Any] = {}

    @contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Inside, run the model on the tokens that this number stands for. The first time all of it
        computes; the second time the shared layers do not."""
        if number not in self._given:
            keeping = self._layers[-1].register_forward_hook(
                lambda _layer, _inputs, output: self._given.update({number: _copied(output)})
            )
            with ExitStack() as hooks:
                hooks.callback(keeping.remove)
                yield
            return
        given = self._given.pop(number)
        with ExitStack() as stubs:
            for layer in self._layers:
                stubs.enter_context(forward_replaced(layer, lambda *_args, **_named: given))
            yield


def shared_layers(model: nn.Module, changed: Iterable[str]) -> SharedLayers | None:
    """Those of `model` below its tensors `changed`; None if nothing is gained or nothing known."""
    if not packable(model):
        return None
    weights = {id(weight) for weight in parameters_by_tensor(model, changed).values()}
    layers = layers_of(model)
    within = [{id(weight) for weight in layer.parameters()} & weights for layer in layers]
    if set().union(*within) != weights:
        # Something beside the layers: the embeddings, say.
        return None
    lowest = next((at for at, some in enumerate(within) if some), len(layers))
    return SharedLayers(layers[:lowest]) if lowest else None


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers, in the order in which they run."""
    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    decoder: Any = model.get_decoder()  # type: ignore[operator]  # of every packable model
    for child in decoder.children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return list(child)
    return []


def _copied(output: Any) -> Any:
    """A copy, in case that a layer works in place on what it gets."""
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(_copied(one) for one in output) if isinstance(output, tuple) else output
