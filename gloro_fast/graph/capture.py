"""Running a module's ``forward`` once, on a batch that has no values, and writing down what it calls, on what.

The batch is a fake tensor: it has a type, a dtype and a shape, whose first size is a symbol, so that a ``forward``
takes the branches that it takes for a batch of images. What is written down are operations of ATen, before autograd and
before they are decomposed, as ``torch.export`` has them; layers with a rule stay whole. ``torch.export`` itself is not
used: it runs the same tracer, but shows a ``forward`` stand-ins for its modules, tells it that it is being exported,
and takes seconds to import.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.batch import BATCH_HINT
from gloro_fast.graph.restoring import restored
from gloro_fast.graph.undisturbed import undisturbed
from gloro_fast.graph.watcher import Watcher, Whole

# The tracer replaces the calls of all modules while it runs: two at a time would take each other's.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Capture:
    """What a ``forward`` does.

    Attributes:
        graph: nodes with ``meta["val"]``, what each gives for the fake batch; see also :func:`scope_of`.
        wholes: what the nodes of ``gloro_fast::whole`` and ``gloro_fast::parametrized`` stand for, by their number.
        tensors: the real tensor of each ``get_attr`` node, by its target.
    """

    graph: fx.Graph
    wholes: tuple[Whole, ...]
    tensors: dict[str, Tensor]


def capture(module: nn.Module, x: Tensor, decomposed: frozenset[Any] = frozenset()) -> Capture:
    """Capture ``module`` in the mode in which it is, and leave its attributes as they are.

    Other threads may call modules meanwhile, and draw random numbers.

    Args:
        module: from (B, *input_shape) to logits.
        x: one image, (1, *input_shape), of the dtype and on the device of the network.
        decomposed: composite operations to write down as what they are made of.

    Raises:
        UnknownLayerError: a layer of PyTorch has no rule.
        ArchitectureError: the forward cannot be captured: control flow by values or by the number of images, item
            assignment, layers made in it.
    """
    # Imported here: symbols and the tracer take half a second, which users of the layers alone need not wait for.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx import traceback
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    with _ONE_AT_A_TIME, restored(module), undisturbed(x.device), _quiet():
        # What depends on values is an error right where it is asked for.
        shapes = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        fakes = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
        # Of one number, whose only size is the symbol, so that no batch of that many images takes memory.
        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        images = fakes.from_tensor(
            torch.empty_strided((BATCH_HINT,), (0,), device="cpu"), symbolic_context=context
        ).shape[0]
        with fakes:
            batch = torch.empty(images, *x.shape[1:], dtype=x.dtype, device=x.device)
        fakes.cache_enabled = False  # A new symbol each time, so that what it keeps is never found again.
        watcher = Watcher(module, fakes)
        tracer = make_fx(
            lambda images: watcher.run(images),  # The tracer counts the arguments of a plain function.
            {operation: operation.decompose for operation in decomposed},
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
            pre_dispatch=True,
        )
        try:
            with traceback.preserve_node_meta():
                made = tracer(batch)
        except GloroFastError:
            raise
        except Exception as error:  # Whatever a user's forward may raise when it meets a tensor without values.
            raise ArchitectureError(_explain(watcher.where(), error)) from None
        if watcher.refusal is not None:
            raise watcher.refusal  # The forward went on without minding it.
        names = {str(node.target) for node in made.graph.nodes if node.op == "get_attr"}
        return Capture(made.graph, tuple(watcher.wholes), {name: watcher.real(getattr(made, name)) for name in names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tracebacks off the error stream that PyTorch logs for shapes which do not fit, beside raising them."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def scope_of(node: fx.Node) -> str:
    """Return the name of the module whose ``forward`` made ``node``."""
    return str(next(iter(node.meta.get("nn_module_stack", ("",)))))


def _explain(where: str, error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in text:
        return (
            f"{where} decides by the values of a tensor, which no graph can hold; compute without if and while on "
            "tensors, or register a rule for it"
        )
    return f"{where} fails; check input_shape and what comes before it: {text}"
