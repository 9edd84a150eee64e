"""State that a processor keeps and no checkpoint holds: tensors that it changes, and generators of its own."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experimentator.backends.torch.modules import is_stand_in
from experimentator.graph import GraphError

log = logging.getLogger(__name__)

CURE = "Let a module hold it, self.register_buffer(name, tensor), or assign to a keras.Variable(..., trainable=False)."
CHANGES = f"%s changes a tensor in place that no checkpoint holds: a resumed run starts from other values. {CURE}"
DRAWS = (
    "%s draws from a torch.Generator, which no checkpoint holds: a resumed run draws other numbers. "
    "Leave `generator` out, or write keras.random.normal(..., seed=keras.random.SeedGenerator(1))."
)


class Unsaved(TorchDispatchMode):
    """Within, finds tensors and generators whose state a processor keeps, and no checkpoint holds.

    Tensors of the batch, parameters and buffers have no values there. One that has values comes from elsewhere: an
    attribute of the processor, or a global. Writing what follows from the batch into it is `refused`, since no program
    can do that; the rest is warned of once.
    """

    supports_higher_order_operators = True  # such as torch.cond, the operations in which are seen like others

    def __init__(self, node: Any, told: set[tuple[str, str]], refused: list[GraphError]):
        super().__init__()
        self.node, self.told, self.refused = str(node), told, refused

    @classmethod
    def is_infra_mode(cls) -> bool:
        """True: what PyTorch compiles by itself, for such operations, ignores this mode."""
        return True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments = function._schema.arguments if isinstance(function, torch._ops.OpOverload) else ()
        named = [(one, kwargs[one.name]) for one in arguments if one.name in kwargs]
        for argument, value in [*zip(arguments, args, strict=False), *named]:
            if isinstance(value, torch.Generator):
                self._tell(DRAWS)
            elif argument.alias_info is not None and argument.alias_info.is_write:
                self._look_at([one for one in tree_leaves(value) if _has_values(one)], (args, kwargs))
        return function(*args, **kwargs)

    def _look_at(self, changed: list[torch.Tensor], given: Any) -> None:
        if changed and any(isinstance(one, FakeTensor) for one in tree_leaves(given)):
            seen = f"{list(changed[0].shape)} {str(changed[0].dtype).removeprefix('torch.')}"
            self.refused.append(
                GraphError(
                    f"{self.node} changes a tensor in place that the graph does not know.\n"
                    f"Seen: {seen}, which is neither in the chunk nor a parameter or buffer.\n{CURE}"
                )
            )
        elif changed:
            self._tell(CHANGES)

    def _tell(self, text: str) -> None:
        if (self.node, text) not in self.told:
            self.told.add((self.node, text))
            log.warning(text, self.node)


def _has_values(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor) and not is_stand_in(tensor)
