"""Whether a device computes in bfloat16 at all, which decides whether training in it is fast or very slow."""

from __future__ import annotations

import platform
import warnings

import torch

_X86 = ("x86_64", "amd64")


def warn_if_emulated(device: torch.device) -> None:
    """Warn where ``device`` has no bfloat16 arithmetic, so that training in it takes longer than in float32.

    Args:
        device: where training is to run.

    Warns:
        UserWarning: it is a processor without the instructions, or a GPU without them.
    """
    if device.type == "cpu":
        where, lacks = "this processor", not _cpu_has_bfloat16()
    elif device.type == "cuda":
        where, lacks = torch.cuda.get_device_name(device), not _gpu_has_bfloat16(device)
    else:
        return
    if lacks:
        warnings.warn(
            f"precision is bfloat16 but {where} has no bfloat16 arithmetic: steps take several times as long as in "
            "float32 (8C2F: 2 to 13 times); train with --precision float32, or on another device",
            stacklevel=3,
        )


def _cpu_has_bfloat16() -> bool:
    # torch.ops.mkldnn._is_mkldnn_bf16_supported is true of any AVX-512, on which oneDNN emulates: a step of 8C2F took
    # 2.5 times as long as in float32 there, 13 times on AVX2, and 0.84 times with the instructions (one thread of a
    # shared machine, ONEDNN_MAX_CPU_ISA). Who has AMX has these too.
    if platform.machine().lower() in _X86:
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _gpu_has_bfloat16(device: torch.device) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
