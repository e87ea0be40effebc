"""Everything that changes while a run goes on, in one place, and its form as named tensors and a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import CheckpointError
from gloro_fast.files import tensor_file
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.randomness import Randomness
from gloro_fast.train.running import RunningSums


@dataclass
class Best:
    """The epoch with the highest VRA on the validation split so far; of equals the latest.

    Attributes:
        epoch: its number, from 1.
        vra: what it reached, at the recipe's epsilon.
        weights: the net's ``state_dict`` then, copied.
    """

    epoch: int
    vra: float
    weights: dict[str, Tensor]


@dataclass
class TrainingState:
    """All that a run needs to go on bit for bit.

    Attributes:
        net: weights and iterates.
        optimizer: with its moments; started anew after warm-up.
        randomness: the generators.
        sums: of the running epoch.
        epoch: index of the running epoch, from 0, warm-up epochs counted.
        batch: how many of its batches are done.
        order: (N,) int64, the data order of the running epoch; None between epochs.
        rows: metrics of the epochs that are over.
        best: the best epoch on the validation split, if there is one.
        seconds: the run's duration up to its last checkpoint, interruptions left out.
        epoch_seconds: training time of the running epoch before an interruption.
    """

    net: GloRoNet
    optimizer: torch.optim.Optimizer
    randomness: Randomness
    sums: RunningSums
    epoch: int = 0
    batch: int = 0
    order: Tensor | None = None
    rows: list[EpochMetrics] = field(default_factory=list)
    best: Best | None = None
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state under a name with a prefix: net, optimizer, generator, sums, order, best."""
        named = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        named |= {f"generator.{name}": tensor for name, tensor in self.randomness.state().items()}
        named["sums"] = self.sums.values
        if self.order is not None:
            named["order"] = self.order
        if self.best is not None:
            named |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        return named

    def document(self) -> dict[str, Any]:
        """Return the rest of the state as JSON can say it."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "rows": [row.to_dict() for row in self.rows],
            "best": None if self.best is None else {"epoch": self.best.epoch, "vra": self.best.vra},
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
        }

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any], complaint: str) -> None:
        """Go back to a state that :meth:`tensors` and :meth:`document` gave.

        Args:
            tensors: all of them.
            document: the rest.
            complaint: how an error message begins.

        Raises:
            CheckpointError: something is missing or does not fit the net; the first tensor is named.
        """
        tensor_file.load_into(self.net, _part(tensors, "net."), complaint)
        try:
            self._restore_optimizer(_part(tensors, "optimizer."))
            self.randomness.restore(_part(tensors, "generator."))
            self.sums.values.copy_(tensors["sums"])
            self.order = tensors.get("order")
            self.epoch, self.batch = int(document["epoch"]), int(document["batch"])
            self.rows = [EpochMetrics(**row) for row in document["rows"]]
            if document["best"] is not None:
                self.best = Best(**document["best"], weights=_part(tensors, "best."))
            self.seconds, self.epoch_seconds = float(document["seconds"]), float(document["epoch_seconds"])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{complaint}: {type(error).__name__} at {reason}; train the run again") from None

    def _restore_optimizer(self, named: Mapping[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in named.items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for place, own in moments.items():
            for key, tensor in own.items():
                parameter = parameters[place]
                if tensor.shape not in (parameter.shape, torch.Size([])):
                    raise ValueError(f"optimizer.{place}.{key} of shape {tuple(tensor.shape)}")
                if tensor.shape == parameter.shape:
                    # Fused Adam goes through memory as it lies, so moments lie as their parameter does.
                    moments[place][key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**state, "state": moments})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
