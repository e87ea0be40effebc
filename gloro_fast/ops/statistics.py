"""What a training step leaves to be read later: counts of its batch, and a row of a table on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension


def count_reference(labels: Tensor, prediction: Tensor, certified: Tensor) -> tuple[Tensor, Tensor]:
    """Count the images classified correctly, and those of them that are certified, in plain PyTorch.

    Args:
        labels: (B,) int64.
        prediction: (B,) int64.
        certified: (B,) bool.

    Returns:
        correct and verified, int64 scalars.
    """
    correct = prediction == labels
    return correct.sum(), (correct & certified).sum()


def count(labels: Tensor, prediction: Tensor, certified: Tensor) -> tuple[Tensor, Tensor]:
    """Return (correct, verified): see :func:`count_reference`; one Triton launch on the GPU."""
    if not _runs_compiled(prediction):
        return count_reference(labels, prediction, certified)
    correct, verified = _count(labels, prediction, certified).unbind()
    return correct, verified


def record_reference_(
    table: Tensor, cursor: Tensor, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor
) -> None:
    """Write the numbers of a step into row ``cursor`` of ``table`` and move ``cursor`` on, in plain PyTorch.

    Args:
        table: (steps, 4) float64, contiguous, written to.
        cursor: (1,) int64, beside ``table``, written to.
        loss: scalar.
        correct: scalar int64.
        verified: scalar int64.
        lipschitz: scalar.

    Raises:
        IndexError: the table is full; on a GPU nothing is written then, and ``cursor`` beyond its rows tells of it.
    """
    # In float64, since counts beside a loss of a half type would be rounded to it.
    row = torch.stack([loss.detach().double(), correct, verified, lipschitz.detach()])
    table.index_copy_(0, cursor, row[None])
    cursor.add_(1)


def record_(table: Tensor, cursor: Tensor, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor) -> None:
    """Write a row as :func:`record_reference_` does: one Triton launch on the GPU, which a graph may capture.

    Nothing waits for the device, and nothing is copied from the host.
    """
    if _runs_compiled(table):
        numbers = (loss.detach(), correct, verified, lipschitz.detach())
        torch.ops.gloro_fast.record_(table, cursor, *numbers)
    else:
        record_reference_(table, cursor, loss, correct, verified, lipschitz)


def _runs_compiled(tensor: Tensor) -> bool:
    # A compiler makes one kernel of the plain operations and what is around them.
    return tensor.is_cuda and not torch.compiler.is_compiling() and dispatch.runs("statistics")


def _fake_count(labels: Tensor, prediction: Tensor, certified: Tensor) -> Tensor:
    counts: Tensor = prediction.new_empty([2])
    return counts


def _fake_record_(
    table: Tensor, cursor: Tensor, loss: Tensor, correct: Tensor, verified: Tensor, lipschitz: Tensor
) -> None:
    pass


if extension.available():
    torch.library.define("gloro_fast::count", "(Tensor labels, Tensor prediction, Tensor certified) -> Tensor")
    torch.library.define(
        "gloro_fast::record_",
        "(Tensor(a!) table, Tensor(b!) cursor, Tensor loss, Tensor correct, Tensor verified, Tensor lipschitz) -> ()",
    )
    torch.library.register_fake("gloro_fast::count", _fake_count)
    torch.library.register_fake("gloro_fast::record_", _fake_record_)
    dispatch.implement("count", "statistics")
    dispatch.implement("record_", "statistics")
    _count = dispatch.eager("count")
