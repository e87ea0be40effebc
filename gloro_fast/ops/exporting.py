"""Whether torch.export is at work: torch's own question, which Dynamo of torch 2.11 answers wrongly."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Return whether torch.export traces what runs, as :func:`torch.compiler.is_exporting` does."""
    return torch.compiler.is_exporting()


# Called, not traced: Dynamo of torch 2.11 puts true in the place of the question under torch.compile as well, and a
# frozen net would be taken for an exported one, which does not look at its structure.
is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]
