"""Several processes that do one thing together, as ``torchrun`` starts them; alone, all of it is trivial and free.

Stands on ``errors`` and torch.distributed; ``data`` gives each process its part of a batch, ``train`` and ``evaluate``
work in a group, and the commands join it.
"""

from gloro_fast.distributed.group import ALONE, Group, current, joined, restarts

__all__ = ["ALONE", "Group", "current", "joined", "restarts"]
