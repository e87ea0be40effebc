"""Seeing every function and every module that a ``forward`` calls while it is captured."""

from __future__ import annotations

import copy
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.batch import is_batch_size, shown_size
from gloro_fast.rules.functions import python_functions, registered_function
from gloro_fast.rules.registry import has_rule, known_type, unknown

_TORCH = str(Path(torch.__file__).parent)
_VALUES = ("data", "real", "imag")
_OF_AUTOGRAD = ("requires_grad", "grad_fn", "is_leaf")
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Whole:
    """A layer, a parametrized tensor, or a function with a rule: one operation of the graph.

    Attributes:
        name: of the layer as the one that calls it knows it; of the module that calls the function.
        called: the layer, the list of parametrizations, or the function.
        args, keywords: what a function is called with besides its tensor.
        overwrites: whether it writes over its input.
        shares: whether its output lies in the memory of its input.
    """

    name: str
    called: Any
    args: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()
    overwrites: bool = False
    shares: bool = False


class Watcher(TorchFunctionMode):
    """Sees every function that a ``forward`` calls, and every module.

    Parameters, and other tensors that are there before, become fake ones as soon as a function is called with them, the
    same one each time: else operations on them alone would be computed, and their values be part of the graph.
    """

    def __init__(self, module: nn.Module, fakes: Any) -> None:
        super().__init__()
        self.wholes: list[Whole] = []
        self.refusal: GloroFastError | None = None
        self._module, self._fakes = module, fakes
        self._scopes: list[tuple[str, nn.Module]] = []
        self._next_name: str | None = None
        self._thread, self._trying = threading.get_ident(), False
        # The tensors too, so that their ids stay their own.
        self._fake_of: dict[int, tuple[Tensor, Tensor]] = {}
        self._real_of: dict[int, Tensor] = {}

    def run(self, x: Tensor) -> Tensor:
        """Call the module, watched, and refuse what is no tensor."""
        global _watcher
        _watcher = self
        try:
            with self._patched(), self:
                result = self._module(x)
        finally:
            _watcher = None
        if isinstance(result, tuple | list | dict):
            kind = "dict" if isinstance(result, dict) else type(result).__name__
            raise ArchitectureError(
                f"the module returns a {kind} of {len(result)}; a GloRo net needs one tensor, the logits (B, m)"
            )
        if not self._is_fake(result):
            raise ArchitectureError("the module returns what does not depend on its input; return the logits (B, m)")
        return result  # type: ignore[no-any-return]

    def where(self) -> str:
        """Say in which module the forward is."""
        if not self._scopes:
            return "the module"
        name, module = self._scopes[-1]
        return f"{name or 'the module'} ({type(module).__name__})"

    def real(self, tensor: Tensor) -> Tensor:
        """Return what a tensor of the graph stands for: itself if the forward made it of numbers."""
        return self._real_of.get(id(tensor), tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function with fake tensors, or refuse it."""
        kwargs = kwargs or {}
        self._check(func, args)
        rule = registered_function(func)
        args, kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
        if rule is not None and not self._trying:
            return self.function(func, args, kwargs)
        return func(*args, **kwargs)

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write down a function with a rule as a whole."""
        keywords = dict(kwargs)
        first, rest = (args[0], args[1:]) if args else (keywords.pop("input", None), ())
        if not isinstance(first, Tensor) or any(isinstance(a, Tensor) for a in (*rest, *keywords.values())):
            return func(*args, **kwargs)
        return self._whole(Whole(self._scope(), func, tuple(rest), tuple(keywords.items())), first)

    def module(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write down a layer with a rule as a whole, and follow the forward of a module of modules."""
        name, self._next_name = self._name(m), None
        if isinstance(m, parametrize.ParametrizationList):
            self.wholes.append(Whole(name, m))
            return torch.ops.gloro_fast.parametrized(len(self.wholes) - 1)
        if has_rule(m):
            args = (*args, *kwargs.values())
            if len(args) != 1 or not self._is_fake(args[0]):
                raise self._refused(
                    f"{name or 'the module'} ({type(m).__name__}) is not called with one tensor of the network, which "
                    "is all its rule knows"
                )
            if args[0].ndim and not is_batch_size(args[0].shape[0]):
                images = f"{shown_size(args[0].shape[0])} images of a batch of B"
                raise self._refused(
                    f"{name or 'the module'} ({type(m).__name__}) gets {images}; leave the batch as it is"
                )
            return self._whole(Whole(name, m), args[0])
        if known_type(m).__module__.startswith("torch.nn.") and not _is_sequential(m):
            self.refusal = unknown(name, m)
            raise self.refusal
        with self._within(name, m):
            return self._through_sequential(name, m, *args) if _is_sequential(m) else m.forward(*args, **kwargs)

    def try_whole(self, x: Tensor, which: int) -> Tensor:
        """Return what the whole gives for ``x``: shape, dtype and device are all that counts."""
        whole = self.wholes[which]
        version = x._version
        self._trying = True
        really = (False, False)
        try:
            with self, self._fakes:
                y = _function(whole.called)(x, *whole.args, **dict(whole.keywords))
        except Exception:
            y, shared, written = self._really(whole, x)
            really = (shared, written)
        finally:
            self._trying = False
        if not isinstance(y, Tensor) or y.ndim == 0:
            raise self._refused(f"{_of(whole)} gives {y!r:.40}; a layer must give one tensor for a batch")
        if x.ndim and is_batch_size(x.shape[0]) and not is_batch_size(y.shape[0]):
            raise self._refused(
                f"{_of(whole)} makes {shown_size(y.shape[0])} images of a batch of B; leave the batch as it is"
            )
        # In evaluation mode dropout gives its input itself.
        shares = really[0] or y.untyped_storage()._cdata == x.untyped_storage()._cdata
        overwrites = really[1] or getattr(whole.called, "inplace", False) is True or x._version != version
        self.wholes[which] = dataclasses.replace(whole, shares=shares or overwrites, overwrites=overwrites)
        return torch.empty_like(y) if shares and not really[0] else y

    def try_parametrized(self, which: int) -> Tensor:
        """Return a tensor like the one that the parametrizations give."""
        self._trying = True
        try:
            with self, self._fakes:
                made: Tensor = self.wholes[which].called()
                return made.clone()
        finally:
            self._trying = False

    def _really(self, whole: Whole, x: Tensor) -> tuple[Tensor, bool, bool]:
        """Run a layer that does not take fake tensors on two and on three images of zeros, a copy of it.

        Returns:
            What it would give, and whether that lies in the memory of its input, and is written over it.
        """
        shares = overwrites = False
        complaint = f"{_of(whole)} does not take its input of shape {tuple(x.shape[1:])}"
        results = []
        called = copy.deepcopy(whole.called)
        if isinstance(called, nn.Module):
            called.eval()
        with _disable_current_modes(), torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            for images in (2, 3):
                zeros = torch.zeros(images, *map(int, x.shape[1:]), dtype=x.dtype, device=x.device)
                version = zeros._version
                try:
                    results.append(_function(called)(zeros, *whole.args, **dict(whole.keywords)))
                    overwrites |= zeros._version != version
                    given = results[-1]
                    shares |= isinstance(given, Tensor) and given.data_ptr() == zeros.data_ptr() and zeros.numel() > 0
                except GloroFastError:
                    raise
                except _FAILURES as error:
                    first = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise self._refused(f"{complaint}; check input_shape and what comes before it: {first}") from None
        two, three = results
        if not isinstance(two, Tensor) or two.ndim == 0:
            raise self._refused(f"{_of(whole)} gives {two!r:.40}; a layer must give one tensor for a batch")
        if len(two) != 2 or len(three) != 3:
            raise self._refused(f"{_of(whole)} makes {len(two)} images of 2; leave the batch as it is")
        if two.shape[1:] != three.shape[1:]:
            raise self._refused(
                f"{_of(whole)} gives images of a shape that depends on the batch; leave the batch alone"
            )
        return x.new_empty((x.shape[0], *two.shape[1:]), dtype=two.dtype), shares, overwrites

    def _whole(self, whole: Whole, x: Tensor) -> Any:
        self.wholes.append(whole)
        return torch.ops.gloro_fast.whole(x, len(self.wholes) - 1)

    def _check(self, func: Any, args: tuple[Any, ...]) -> None:
        """Refuse what a graph cannot hold."""
        if self._trying:
            return
        where, name = self.where(), getattr(func, "__name__", "")
        if torch.is_inference_mode_enabled():
            raise self._refused(f"{where} enters torch.inference_mode, which no graph can hold; use torch.no_grad")
        if func is Tensor.__setitem__:
            raise self._refused(
                f"{where} writes into a tensor; compute a new one with torch.cat, or register a rule for it"
            )
        # Seen here, since the tracer would follow every one of the images first, which takes seconds.
        if func is Tensor.unbind and args[1:] == (0,) and args[0].ndim and is_batch_size(args[0].shape[0]):
            raise self._refused(
                f"{f'{self._scope()}.unbind()'.removeprefix('.')} mixes the images of a batch; leave dimension 0 alone"
            )
        if func in (Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.__array__) and not _is_number(args[0]):
            raise self._refused(
                f"{where} reads the values of a tensor by {name}(), which no graph can hold; compute with the tensor"
            )
        asked = func.__self__.__name__ if name == "__get__" else ""
        if asked in _OF_AUTOGRAD and self._is_fake(args[0]) and _by_user(sys._getframe(2)):
            raise self._refused(
                f"{where} asks for the .{asked} of a tensor, which a graph does not know; compute the same either way"
            )
        if name == "__set__" and func.__self__.__name__ in _VALUES:
            raise self._refused(
                f"the forward sets the .{func.__self__.__name__} of a tensor, unseen by a graph; compute a new one"
            )

    def _refused(self, text: str) -> ArchitectureError:
        error = ArchitectureError(text)
        self.refusal = error
        return error

    def _is_fake(self, value: Any) -> bool:
        return isinstance(value, Tensor) and getattr(value, "fake_mode", None) is self._fakes

    def _fake(self, tensor: Tensor) -> Tensor:
        """Return the fake tensor that stands for a real one."""
        if self._is_fake(tensor):
            return tensor
        if tensor.grad_fn is not None:
            raise self._refused(
                f"{self.where()} uses a tensor computed from parameters that are no attributes of a module; make "
                "them nn.Parameter attributes"
            )
        if id(tensor) not in self._fake_of:
            # Unseen by the tracer, which would write down how a view is made of its base.
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                fake: Tensor = self._fakes.from_tensor(tensor, static_shapes=True)
            self._fake_of[id(tensor)], self._real_of[id(fake)] = (tensor, fake), tensor
        return self._fake_of[id(tensor)][1]

    def _scope(self) -> str:
        return self._scopes[-1][0] if self._scopes else ""

    def _through_sequential(self, name: str, module: nn.Module, x: Any) -> Any:
        # Not forward(), which does not tell which of two names of a layer it uses.
        for key, child in module._modules.items():
            qualified = f"{name}.{key}" if name else key
            if child is None:
                raise self._refused(f"{qualified} is None; give a layer")
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
        for name, inner in self._module.named_modules():
            if inner is module:
                return str(name)
        raise self._refused(
            f"{self.where()} calls a {type(module).__name__} that is no part of the module; make it an attribute"
        )

    @contextmanager
    def _within(self, name: str, module: nn.Module) -> Iterator[None]:
        from torch.fx import traceback

        before = traceback.current_meta.get("nn_module_stack")
        traceback.current_meta["nn_module_stack"] = {name: ""}
        # Left only when all went well, so that an error can say where it was.
        self._scopes.append((name, module))
        yield
        self._scopes.pop()
        traceback.current_meta["nn_module_stack"] = before or {"": ""}

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """Have modules, autograd functions and numbers of images come here, those of this thread."""
        call, apply = nn.Module.__call__, torch.autograd.Function.__dict__["apply"]

        def module_call(m: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._is_elsewhere() or self._trying:
                return call(m, *args, **kwargs)
            return self.module(m, args, kwargs)

        module_call.captures = True  # type: ignore[attr-defined]

        def function_apply(function: type, *args: Any, **kwargs: Any) -> Any:
            if self._is_elsewhere() or self._trying:
                return apply.__get__(None, function)(*args, **kwargs)
            raise self._refused(
                f"{self.where()} calls {function.__name__}, a torch.autograd.Function, which no graph can hold; call "
                "it in a layer of its own and register a rule with @gloro_fast.nn.register_lipschitz_rule"
            )

        def truth(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
            def decide(number: Any) -> bool:
                of_here = not self._is_elsewhere() and not self._trying and _by_user(sys._getframe(1))
                if of_here and getattr(number.node.expr, "free_symbols", None):
                    raise self._refused(
                        f"{self.where()} decides by the number of images, which no graph can hold; compute the same "
                        "for every batch"
                    )
                return of(number)

            return decide

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(nn.Module, "__call__", module_call))
            stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", classmethod(function_apply)))
            for kind in (torch.SymBool, torch.SymInt):
                stack.enter_context(mock.patch.object(kind, "__bool__", truth(kind.__bool__)))
            for function in python_functions():
                namespace, name = function.__globals__, function.__name__
                if namespace.get(name) is function:
                    stack.enter_context(mock.patch.dict(namespace, {name: self._shown(function)}))
            yield

    def _shown(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_elsewhere() or self._trying:
                return function(*args, **kwargs)
            args, kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
            return self.function(function, args, kwargs)

        return call

    def _is_elsewhere(self) -> bool:
        """Return whether another thread calls, which knows nothing of the capture."""
        return threading.get_ident() != self._thread


def _by_user(frame: Any) -> bool:
    """Return whether code outside of PyTorch asks."""
    return not frame.f_code.co_filename.startswith(_TORCH)


def _is_number(tensor: Tensor) -> bool:
    """Return whether a fake tensor was made of a number, which is then known."""
    return getattr(tensor, "constant", None) is not None


def _of(whole: Whole) -> str:
    if isinstance(whole.called, nn.Module):
        return f"{whole.name or 'the module'} ({type(whole.called).__name__})"
    return f"{whole.name}.{getattr(whole.called, '__name__', whole.called)}()".removeprefix(".")


def _function(called: Any) -> Any:
    """Return what computes, without the hooks of a layer."""
    return called.forward if isinstance(called, nn.Module) else called


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


# What stands in the graph for a whole. Only fake tensors meet these operations.
_watcher: Watcher | None = None
torch.library.define("gloro_fast::whole", "(Tensor x, int which) -> Tensor")
torch.library.define("gloro_fast::parametrized", "(int which) -> Tensor")


def _whole(x: Tensor, which: int) -> Tensor:
    assert _watcher is not None
    return _watcher.try_whole(x, which)


def _parametrized(which: int) -> Tensor:
    assert _watcher is not None
    return _watcher.try_parametrized(which)


torch.library.register_fake("gloro_fast::whole", _whole)
torch.library.register_fake("gloro_fast::parametrized", _parametrized)
