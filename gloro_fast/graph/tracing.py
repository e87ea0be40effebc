"""Following a module's ``forward`` once, symbolically: which layers and functions it calls, and on what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.chance import NoChance
from gloro_fast.graph.proxy import Proxy
from gloro_fast.graph.restoring import restored
from gloro_fast.nn.rules import has_rule, is_subclass_of_known, known_type, unknown

ROOT = "root"
_CONTROL_FLOW = "control flow"
# torch.fx replaces the calls of all modules while it traces: two traces at a time would take each other's.
_ONE_AT_A_TIME = threading.RLock()


class Root(nn.Module):
    """A holder, so that a model that is a single layer is traced as any other, and literals land not in the model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.root = module

    def forward(self, x: torch.Tensor) -> Any:
        """Call the module."""
        return self.root(x)


def trace(module: nn.Module) -> tuple[fx.Graph, Root]:
    """Trace ``module`` with one argument, in the mode in which it is, and leave its attributes as they are.

    Other threads may call modules meanwhile, and draw random numbers.

    Returns:
        graph: its nodes carry ``meta["scope"]``, the name of the module whose ``forward`` made them, and, where a
            layer with a rule is called, ``meta["layer"]``.
        root: the module that ``get_attr`` targets refer to.

    Raises:
        UnknownLayerError: a layer of PyTorch, or a subclass of a known layer, has no rule.
        ArchitectureError: the forward cannot be traced: control flow by values, item assignment, random numbers,
            layers made in it.
    """
    with _ONE_AT_A_TIME, restored(module), NoChance() as chance:
        root, tracer = Root(module), _Tracer()
        try:
            with mock.patch.object(torch.autograd.Function, "apply", classmethod(tracer.autograd_function)):
                graph = tracer.trace(root)
        except GloroFastError:
            raise
        except Exception as error:  # Whatever a user's forward may raise when it meets a proxy.
            raise ArchitectureError(_explain(tracer.where(), error)) from None
        chance.check()
        return graph, root


class _Tracer(fx.Tracer):
    """Layers with rules are leaves; everything else that is no layer of PyTorch is traced through."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._scopes: list[tuple[str, nn.Module]] = []
        self._next_name: str | None = None
        self._thread = threading.get_ident()
        self._apply_function: Callable[..., Any] = torch.autograd.Function.__dict__["apply"].__func__

    def proxy(self, node: fx.Node) -> Proxy:
        """Give what stands for the value of ``node``."""
        return Proxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Give what stands for a parameter or buffer that the traced ``forward`` reads."""
        if self._is_elsewhere():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def where(self) -> str:
        """Say in which module the tracer is."""
        if not self._scopes:
            return "the module"
        name, module = self._scopes[-1]
        return f"{name or 'the module'} ({type(module).__name__})"

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a node of a layer with a rule, and trace through a module of modules."""
        if self._is_elsewhere():
            return forward(*args, **kwargs)
        name, self._next_name = self._name(m), None
        if isinstance(m, parametrize.ParametrizationList) or has_rule(m):
            proxy = self.create_proxy("call_module", name or ROOT, args, kwargs)
            proxy.node.meta["layer"], proxy.node.meta["name"] = m, name
            return proxy
        if is_subclass_of_known(m) or (known_type(m).__module__.startswith("torch.nn.") and not _is_sequential(m)):
            raise unknown(name, m)
        with self._within(name, m):
            return self._through_sequential(name, m, *args) if _is_sequential(m) else forward(*args, **kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where the node was made."""
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self._scopes[-1][0] if self._scopes else ""
        return node

    def create_arg(self, a: Any) -> Any:
        """Refuse tensors that were computed from parameters without the tracer's knowing: they would never change."""
        if isinstance(a, torch.Tensor) and a.grad_fn is not None:
            raise ArchitectureError(
                f"{self.where()} uses a tensor computed from parameters that are no attributes of a module; make "
                "them nn.Parameter attributes"
            )
        if isinstance(a, np.generic):
            a = a.item()  # A number of NumPy's is a number.
        return super().create_arg(a)

    def autograd_function(self, function: type, *args: Any, **kwargs: Any) -> Any:
        """Refuse an operation of the user's own: its gradient, and what it overwrites, are not in the graph."""
        if self._is_elsewhere():
            return self._apply_function(function, *args, **kwargs)
        raise ArchitectureError(
            f"{self.where()} calls {function.__name__}, a torch.autograd.Function, which no graph can hold; call it in "
            "a layer of its own and register a rule with @gloro_fast.nn.register_lipschitz_rule"
        )

    def _is_elsewhere(self) -> bool:
        """Whether another thread calls, which knows nothing of the tracing."""
        return threading.get_ident() != self._thread

    def _through_sequential(self, name: str, module: nn.Module, x: Any) -> Any:
        # Not forward(), which does not tell which of two names of a layer it uses.
        for key, child in module._modules.items():
            qualified = f"{name}.{key}" if name else key
            if child is None:
                raise ArchitectureError(f"{qualified} is None; give a layer")
            self._next_name = qualified
            x = child(x)
        return x

    def _name(self, module: nn.Module) -> str:
        """Name a module as the one that calls it knows it."""
        if self._next_name is not None:
            return self._next_name
        if not self._scopes:
            return ""
        scope, caller = self._scopes[-1]
        for name, inner in caller.named_modules(remove_duplicate=False):
            if inner is module and name:
                return f"{scope}.{name}" if scope else name
        path = super().path_of_module(module).removeprefix(ROOT)
        return path.removeprefix(".")

    @contextmanager
    def _within(self, name: str, module: nn.Module) -> Iterator[None]:
        # Left only when all went well, so that an error can say where it was.
        self._scopes.append((name, module))
        yield
        self._scopes.pop()


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _explain(where: str, error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot be iterated" in text:
        return f"{where} iterates over a tensor; take its parts by name, as in a, b = x.chunk(2, dim=1)"
    if _CONTROL_FLOW in text:
        return (
            f"{where} decides by the values of a tensor, which no graph can hold; compute without if and while on "
            "tensors, or register a rule for it"
        )
    if "item assignment" in text:
        return f"{where} writes into a tensor; compute a new one with torch.cat, or register a rule for it"
    return f"{where} cannot be traced by torch.fx ({text}); use tensor operations only, or register a rule for it"
