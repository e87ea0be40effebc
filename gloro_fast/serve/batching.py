"""Concurrent requests in one forward pass: a queue, and one thread that certifies what has gathered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from gloro_fast.errors import GloroFastError


class Full(GloroFastError, RuntimeError):
    """More images wait than may."""


class Answer(NamedTuple):
    """What is known of the images of one request, each of B.

    Attributes:
        prediction: (B,) int64.
        radius: (B,) float64.
    """

    prediction: Tensor
    radius: Tensor


Certify = Callable[[Tensor], Answer]


class Batcher:
    """Gathers images of concurrent requests into batches.

    Args:
        certify: called in one thread, with at most ``max_batch`` images at a time.
        max_batch: how many images a batch has at most.
        max_wait: seconds that an image waits for others while nothing is computed.
        max_queue: how many images may wait.
    """

    def __init__(self, certify: Certify, max_batch: int, max_wait: float, max_queue: int) -> None:
        self._certify = certify
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._requests: deque[tuple[Tensor, asyncio.Future[Answer]]] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "certify")
        self._task: asyncio.Task[None] | None = None
        self.batches = 0

    @property
    def waiting(self) -> int:
        """The number of images that wait."""
        return self._waiting

    def start(self) -> None:
        """Begin to take batches from the queue."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Certify what was accepted, and end."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, images: Tensor) -> Answer:
        """Certify images (B, ...), B at most ``max_batch``, together with what others have sent.

        Raises:
            Full: too many images wait, or the server is shutting down.
        """
        if self._closing or self._waiting + len(images) > self._max_queue:
            raise Full("too many images wait; try again in a second")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._requests.append((images, future))
        self._waiting += len(images)
        self._arrived.set()
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._requests or not self._closing:
            if not self._requests:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._gather(loop.time() + self._max_wait)
            batch = self._take()
            if not batch:
                continue
            self.batches += 1
            try:
                images = torch.cat([images for images, _ in batch])
                found = await loop.run_in_executor(self._thread, self._certify, images)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            first = 0
            for images, future in batch:
                rows = slice(first, first := first + len(images))
                if not future.done():
                    future.set_result(Answer(found.prediction[rows], found.radius[rows]))

    async def _gather(self, until: float) -> None:
        """Wait for a full batch, but no longer than ``until``."""
        while self._waiting < self._max_batch and not self._closing:
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[tuple[Tensor, asyncio.Future[Answer]]]:
        """Take whole requests from the queue, in their order, but for those that nobody waits for any more."""
        batch: list[tuple[Tensor, asyncio.Future[Answer]]] = []
        count = 0
        while self._requests and count + len(self._requests[0][0]) <= self._max_batch:
            images, future = self._requests.popleft()
            self._waiting -= len(images)
            if not future.done():
                batch.append((images, future))
                count += len(images)
        return batch
