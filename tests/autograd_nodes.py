"""What autograd recorded."""

from __future__ import annotations

from torch import Tensor


def nodes_of(loss: Tensor) -> list[str]:
    """List the names of the operations that ``loss.backward()`` would go through, one for each."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return [node.name() for node in seen]
