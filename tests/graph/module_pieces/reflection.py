"""Forwards that look at how they are being run: no capture can look the same in all of this as an ordinary call."""

import torch

from module_pieces.questions import only_if
from module_pieces.registry import BOTH, each

QUESTIONS = {
    "torch.overrides.has_torch_function": lambda x: only_if(not torch.overrides.has_torch_function((x,)), x),
    "torch.fx's is_fx_tracing()": lambda x: only_if(not torch.fx._symbolic_trace.is_fx_tracing(), x),
    "torch.is_grad_enabled()": lambda x: only_if(torch.is_grad_enabled(), x),
    "x.requires_grad": lambda x: only_if(x.requires_grad, x),
    "x.data_ptr()": lambda x: only_if(x.data_ptr() != 0, x),
    "torch.compiler.is_exporting()": lambda x: only_if(not torch.compiler.is_exporting(), x),
    "f'{x}'": lambda x: only_if("tensor" in f"{x}", x),
    "vars(x)": lambda x: only_if(not vars(x), x),
    "x.grad_fn": lambda x: only_if(x.grad_fn is None, x),
    "x.untyped_storage()": lambda x: only_if(x.untyped_storage().nbytes() >= 4 * x.numel(), x),
}

each(__name__, QUESTIONS, ranks=BOTH, legal=False)
