"""Numbers that change during training, such as epsilon, as kernels read them: 0-dim float64 tensors on the device.

A captured CUDA graph keeps where its numbers lie. So it follows a number that is set in its place, and one capture
serves a whole run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.ops.capturing import is_capturing


class Scalar:
    """A number and its tensors, one for each device on which it was asked for.

    Copies and pickles have the number alone.

    Args:
        value: the number.
    """

    def __init__(self, value: float) -> None:
        self._value = float(value)
        self._tensors: dict[torch.device, Tensor] = {}
        self._read: dict[torch.device, Tensor] = {}

    def __reduce__(self) -> tuple[type[Scalar], tuple[float]]:
        return Scalar, (self._value,)

    @property
    def value(self) -> float:
        """The number. Setting it fills the tensors in place, without waiting for their devices."""
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._value = float(value)
        self._read.clear()  # whoever read before keeps what was read
        for tensor in self._tensors.values():
            tensor.fill_(self._value)

    def on(self, device: torch.device) -> Tensor:
        """Return the number's 0-dim float64 tensor on ``device``: the same object at every call.

        Raises:
            ConfigError: a CUDA graph is being captured and the tensor does not exist yet: the graph would fill it with
                the present number at every replay.
        """
        if torch.compiler.is_compiling():
            self._make_outside(device)
        found = self._tensors.get(device)
        return self._make(device, self._tensors) if found is None else found

    def read(self, device: torch.device) -> Tensor:
        """Return a tensor that stays as it is, or, for a graph that is being captured or compiled, what ``on`` does.

        Autograd keeps what a forward pass read: a number set before the backward pass does not change it. Until then
        it is the same tensor at every call, so that a step launches nothing for it.
        """
        if torch.compiler.is_compiling() or is_capturing(device):
            return self.on(device)
        found = self._read.get(device)
        if found is None:
            self.on(device)  # for a capture, which could not make it
            found = self._make(device, self._read)
        return found

    def _make(self, device: torch.device, tensors: dict[torch.device, Tensor]) -> Tensor:
        if is_capturing(device):
            raise ConfigError(
                f"a CUDA graph is captured on {device}, where nothing has run yet; run one step there before capturing"
            )
        with torch.inference_mode(False):
            tensor = as_scalar(self._value, device)
        if type(tensor) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensors[device] = tensor
        return tensor

    def _make_outside(self, device: torch.device) -> None:
        """Make the tensor while a compiler traces, which would not keep one that its graph makes."""
        if device not in self._tensors:
            self._make(device, self._tensors)

    # What torch.compiler.assume_constant_result does, without importing the whole compiler: called, not traced.
    _make_outside._dynamo_marked_constant = True  # type: ignore[attr-defined]


def as_scalar(number: float | Tensor, device: torch.device) -> Tensor:
    """Return a number, or a tensor of one, as a float64 tensor on ``device``, without waiting if it is there already.

    A Python number is filled in: it is not copied from the host.
    """
    if isinstance(number, Tensor):
        as_it_is = number.dtype == torch.float64 and number.device == device
        return number if as_it_is else number.to(device, torch.float64)
    return torch.scalar_tensor(number, dtype=torch.float64, device=device)


def constant(number: float | Tensor) -> float | Tensor:
    """Return the number without its gradient."""
    return number.detach() if isinstance(number, Tensor) else number
