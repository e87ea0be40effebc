"""Computing as if nobody had called: what a caller switched on or off has no part in a graph, a bound or a trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

_INCLUDED, _EXCLUDED = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave inference mode, no_grad, autocast, torch.func transforms and torch's modes, whoever called."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with ExitStack() as stack:
        modes = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
        for mode in modes:
            stack.callback(torch._C._push_on_torch_function_stack, mode)
        for mode in reversed(modes):
            # The default device, which tensors that a forward makes are on.
            if isinstance(mode, DeviceContext):
                stack.enter_context(DeviceContext(mode.device))
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        # Within an operation, such as the one by which a compiled net looks at itself, keys are left out.
        stack.enter_context(torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {device.type, "cpu"} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
