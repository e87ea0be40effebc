"""The group of processes that this one belongs to: who it is there, what is its part, and what all agree on."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gloro_fast.distributed import shared_memory
from gloro_fast.errors import DistributedError, GloroFastError, PeerError

_T = TypeVar("_T")

# What torchrun tells its processes; a job that has but some of them, as Slurm's often do, is no group.
_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# A process that ends is noticed at once, by its closed connections or by torchrun. This is for one that hangs, and
# longer than the others wait for what the first does by itself: the bound of a large net, or a slow disk.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """The processes that do one thing together; this one's place among them.

    Every method but :meth:`share` is to be called by all processes alike. Tensors may lie on the CPU, or on the device
    that the group was joined for.

    Attributes:
        rank: which process this is, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of ``count`` things are this process's: a range; those of all, by rank, make up all of them."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def part(self, count: int) -> slice:
        """Return which rows of a batch of ``count`` this process learns from: its share, or one if that has none.

        A process without a row would not move the power iterates on as the others do. See :meth:`weight`.
        """
        share = self.share(count)
        first = min(share.start, count - 1)
        return slice(first, max(share.stop, first + 1))

    def weight(self, count: int) -> float:
        """Return what the mean over :meth:`part` counts in that over a batch of ``count``; 0 for a row of others."""
        return len(self.share(count)) / count

    def barrier(self, seconds: float = _TIMEOUT.total_seconds()) -> None:
        """Wait until every process is here.

        Args:
            seconds: how long at most.

        Raises:
            DistributedError: one has ended, or does not come in time.
        """
        if self.size > 1:
            with _lost():
                work = dist.all_reduce(torch.zeros(1), async_op=True)
                assert work is not None
                work.wait(timedelta(seconds=seconds))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Put the sum over all processes into ``tensor``, the same bits in each, and return it.

        Raises:
            DistributedError: a process has ended.
        """
        if self.size > 1:
            with _lost():
                dist.all_reduce(tensor)
        return tensor

    def summing(self, tensor: Tensor) -> Callable[[], object]:
        """Return what does :meth:`sum_` on one tensor, for a sum that every step takes.

        Processes on one machine (Linux, x86) share memory for it; see ``SharedSum``.

        Raises:
            DistributedError: a process has ended; so does what is returned.
        """
        if self.size == 1:
            return partial(self.sum_, tensor)
        descriptor, address, shared = None, None, None
        with suppress(OSError):
            if self.is_main and shared_memory.may_share(tensor):
                descriptor, address = shared_memory.create(tensor, self.size)
        address = self.tell(address)
        with suppress(OSError):
            if address is not None:
                descriptor = shared_memory.attach(address) if descriptor is None else descriptor
                shared = shared_memory.SharedSum(tensor, self.rank, self.size, descriptor, _TIMEOUT)
        # All of them, or none.
        if self.greatest(shared is None) or shared is None:
            return partial(self.sum_, tensor)
        return _lost()(shared.take)

    def greatest(self, number: int) -> int:
        """Return the greatest of the numbers that the processes give.

        Raises:
            DistributedError: a process has ended.
        """
        if self.size == 1:
            return number
        found = torch.tensor([number])
        with _lost():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def tell(self, value: _T) -> _T:
        """Return the value that the first process gives, in all of them.

        Args:
            value: anything that can be pickled; what other processes give is dropped.

        Raises:
            DistributedError: a process has ended.
        """
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        with _lost():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def follow(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors the values that they have in the first process.

        Args:
            tensors: the same shapes, dtypes and strides in all processes, all on one device, that own their memory
                without gaps.

        Raises:
            DistributedError: a process has ended.
        """
        if self.size == 1:
            return
        with _lost(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(_as_it_lies(tensor), src=0)

    def gather(self, tensor: Tensor) -> Tensor | None:
        """Put the parts of all processes together, in the order of their ranks.

        Args:
            tensor: (n, ...), this process's part; n may differ among them, and be 0.

        Returns:
            (sum of n, ...) in the first process, on the device of ``tensor``; None in the others.

        Raises:
            DistributedError: a process has ended.
        """
        if self.size == 1:
            return tensor
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(tensor)
        longest = int(self.sum_(counts).max())
        # Equal parts, since gloo takes no others.
        own = tensor.new_zeros((longest, *tensor.shape[1:]))
        own[: len(tensor)] = tensor
        # NCCL sends no bool.
        sent = own.view(torch.uint8) if own.dtype == torch.bool else own
        parts = [torch.empty_like(sent) for _ in range(self.size)] if self.is_main else None
        with _lost():
            dist.gather(sent, parts, dst=0)
        if parts is None:
            return None
        kept = [part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]
        return torch.cat(kept).view(tensor.dtype)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let a block end well in all processes, or in none: what is wrong in one of them is raised in all.

        The block may differ from one to the next, as where the first alone writes a file; it must not wait for the
        others.

        Raises:
            GloroFastError: what the block raised, in the first process, by rank, where it did.
            PeerError: in the others, which have nothing to add.
            DistributedError: a process has ended.
        """
        if self.size == 1:
            yield
            return
        failure: GloroFastError | None = None
        try:
            yield
        except GloroFastError as error:
            failure = error
        # The greatest stands for the first.
        speaker = self.size - self.greatest(0 if failure is None else self.size - self.rank)
        if speaker == self.size:
            return
        if speaker == self.rank and failure is not None:
            raise failure
        raise PeerError(f"process {speaker} of {self.size} has failed, and has said why") from failure


ALONE = Group()
"""The group of a process that is by itself."""


def current() -> Group:
    """Return the group of this process as torch.distributed has it; one by itself where that was not begun."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return Group(dist.get_rank(), dist.get_world_size())


def restarts() -> int:
    """Return how often torchrun has started this group anew, after a process of it failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device: str = "cpu") -> Iterator[Group]:
    """Join the processes that torchrun has started, for the length of the block.

    Where torchrun has started none, or torch.distributed was begun already, nothing is done. Tensors go by gloo, those
    on a GPU by NCCL; each process takes the GPU of its place on its machine.

    Args:
        device: where the work is done, ``cpu`` or ``cuda``.

    Yields:
        The group.

    Raises:
        DistributedError: the others cannot be reached, there are more processes than GPUs, or torch has no NCCL.
    """
    if not all(name in os.environ for name in _TOLD) or int(os.environ["WORLD_SIZE"]) == 1 or dist.is_initialized():
        yield current()
        return
    # Making a net imports it. Where a group exists by then, something of it holds the group to the end of the process,
    # whose threads now and then abort it: "terminate called without an active exception".
    importlib.import_module("torch._dynamo")
    backend = _backend(device)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=_TIMEOUT))  # type: ignore[attr-defined]
        # torchrun with a --master-port keeps its store when it starts a group anew, and with it where processes that
        # are gone could be reached: others hung, or were refused, in 4 of 7 restarts.
        store = dist.PrefixStore(f"gloro_fast {restarts()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"cannot join the processes that torchrun started ({_first_line(error)}); check MASTER_ADDR and "
            "MASTER_PORT, and that all of them run the same command"
        ) from None
    try:
        yield current()
    except BaseException:
        # NCCL would wait for work that another process never does.
        if backend == "gloo":
            with suppress(Exception):
                dist.destroy_process_group()
        raise
    finally:
        shared_memory.leave()
    dist.destroy_process_group()


def _backend(device: str) -> str:
    """Choose what carries tensors, and the GPU of this process."""
    if torch.device(device).type != "cuda":
        return "gloo"
    if not dist.is_nccl_available():
        raise DistributedError("this torch has no NCCL, by which processes on GPUs talk; use --device cpu")
    place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= gpus:
        raise DistributedError(
            f"process {place} of this machine has no GPU, of which there are {gpus}; "
            f"start torchrun with --nproc-per-node {gpus} or less"
        )
    torch.cuda.set_device(place)
    return "cpu:gloo,cuda:nccl"


@contextmanager
def _lost() -> Iterator[None]:
    """Say in one line that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise DistributedError(
            f"another process of the group has ended or does not answer ({_first_line(error)}); look at what it said, "
            "or at torchrun's report"
        ) from error


def _as_it_lies(tensor: Tensor) -> Tensor:
    """Return the numbers of a dense tensor as one row in the order of its memory, sharing it."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    # gloo begins with a line of its source, and ends with advice.
    return re.sub(r"^\[\S+\] ", "", line).split(". ")[0]
