"""Functions of autograd for ops that are called in eager mode only."""

from __future__ import annotations

import torch


class EagerFunction(torch.autograd.Function):
    """A function that nobody applies within torch.func's transforms.

    ``torch.autograd.Function.apply`` looks for such transforms and at each argument for what they may have left: 2 of
    the 5 microseconds that a call takes. Who calls these has looked before, to take the reference there.
    """

    apply = torch._C._FunctionBase.__dict__["apply"]
