"""Splits that are read anew at every epoch, from whatever gives images with labels."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from gloro_fast.data.dataset import Split
from gloro_fast.data.elements import key_of_label, tensors
from gloro_fast.errors import ConfigError, DataError

_END = object()
_IMAGES_OF_A_DIGEST = 32


class Source:
    """A split that is read batch by batch: a data set of torchvision or Hugging Face, a WebDataset, a ``DataLoader``.

    What has ``__getitem__`` and ``__len__`` is read in random order, as a split in memory would be. Anything else is
    iterated over, once an epoch, and shuffled for training in a buffer of ``buffer`` images: each that comes in takes
    the place of one drawn at random. Whatever batches it comes in, the recipe's batch size decides. No more than the
    buffer and a few batches are ever in memory, bytes as bytes.

    Where reading is random (transforms of torchvision, the order of a ``DataLoader``) it draws from torch's generator,
    seeded by the run for each batch, or each epoch of what is iterated over; numbers from NumPy or Python are not.

    Args:
        reads: what gives the images and labels, at every reading anew; see :func:`gloro_fast.data.elements.tensors` for
            the kinds of elements.
        classes: their names, or how many there are; None takes the names from ``reads``, or counts the labels, for
            which everything is read once.
        length: images an epoch; None asks ``reads``, or counts. A longer stream is left there.
        channels: 1 or 3, what Pillow's images are converted to; None is what the first one has.
        keys: which values of an element are the image and the label; None looks for usual names.
        buffer: images to shuffle among.
        workers: processes that read what has ``__getitem__``; 0 reads in this one, with the same bits.

    Attributes:
        input_shape: (C, H, W) of one image.
        is_indexed: whether ``reads`` gives any image by its index.

    Raises:
        DataError: it gives no images, or something else; or it is a generator, of which nothing is left to read later.
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        reads: Any,
        *,
        classes: int | Sequence[str] | None = None,
        length: int | None = None,
        channels: int | None = None,
        keys: tuple[Any, Any] | None = None,
        buffer: int = 2048,
        workers: int = 0,
    ) -> None:
        if buffer < 1 or workers < 0 or (length is not None and length < 1) or channels not in (None, 1, 3):
            raise ConfigError(
                f"buffer={buffer}, length={length}, channels={channels}, workers={workers}: buffer and length must be "
                "1 or more, channels 1 or 3, workers 0 or more"
            )
        kind = type(reads).__name__
        if isinstance(reads, Iterator):
            raise DataError(f"a {kind} can be read but once; give what it comes from, or an object with __iter__")
        self.is_indexed = not isinstance(reads, DataLoader | IterableDataset | Mapping) and all(
            hasattr(reads, name) for name in ("__getitem__", "__len__")
        )
        if isinstance(reads, Mapping | str | bytes) or not (self.is_indexed or hasattr(reads, "__iter__")):
            raise DataError(
                f"a {kind} gives no images with labels; give a data set, a DataLoader or an iterable of them"
            )
        self.reads, self.buffer, self.workers = reads, buffer, workers
        self._keys, self._channels = keys, channels
        self._classes = _names(classes) or _names_in(reads, keys)
        first, batched = self._first()
        depth, height, width = first.shape[1:]
        self.input_shape = (depth, height, width)
        self._dtype = first.dtype
        self._channels = channels or (self.input_shape[0] if self.input_shape[0] in (1, 3) else None)
        self._length = length if length is not None else _length(reads, batched)

    def __len__(self) -> int:
        """Return how many images an epoch has; where nobody says, read everything once to count them."""
        if self._length is None:
            self._count()
        assert self._length is not None
        return self._length

    @property
    def known_length(self) -> int | None:
        """How many images an epoch has, where that is known without reading them."""
        return self._length

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, their numbers where they have none; may read everything once to count them."""
        if self._classes is None:
            self._count()
        assert self._classes is not None
        return self._classes

    def take(self, indices: Tensor) -> Self:
        """Return the images of these indices as a source of their own.

        Raises:
            ConfigError: the images have no indices.
        """
        if not self.is_indexed:
            raise ConfigError(
                "a stream of images cannot be divided; give the validation images as a stream of their own, or "
                "validation_size=0"
            )
        return type(self)(
            Subset(self.reads, indices.tolist()),
            classes=self.class_names,
            channels=self._channels,
            keys=self._keys,
            buffer=self.buffer,
            workers=self.workers,
        )

    def read(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Read the images of these indices.

        Args:
            indices: B of them.
            seed: of torch's generator meanwhile; it is put back afterwards.

        Returns:
            (B, C, H, W) uint8 or float32, and (B,) int64, on the CPU.
        """
        several = getattr(self.reads, "__getitems__", None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            elements = several(list(indices)) if several else [self.reads[index] for index in indices]
            rows = [self._tensors(e, f"image {index}") for e, index in zip(elements, indices, strict=True)]
        return torch.cat([images for images, _ in rows]), torch.cat([labels for _, labels in rows])

    def stream(self, seed: int, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images once, those of a stream.

        Args:
            seed: of torch's generator, that the stream may draw from, and of the buffer's own.
            shuffle: whether they go through the buffer.

        Yields:
            (C, H, W) uint8 or float32 and () int64 on the CPU.

        Raises:
            DataError: fewer images than the length says.
        """
        rows = itertools.islice(self._rows(seed), self._length)
        yield from _shuffled(rows, seed, self.buffer) if shuffle and self.buffer > 1 else rows

    def _rows(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = 0
        for element in _seeded(self.reads, seed):
            images, labels = self._tensors(element, f"image {count}")
            count += len(images)
            yield from zip(images, labels, strict=True)
        if self._length is not None and count < self._length:
            raise DataError(
                f"the stream ended after {count} of {self._length} images; give length={count}, or all of it"
            )

    def _tensors(self, element: Any, what: str) -> tuple[Tensor, Tensor]:
        images, labels = tensors(element, what, keys=self._keys, channels=self._channels)
        if tuple(images.shape[1:]) != self.input_shape:
            remedy = "resize it in the data set's transform"
            if images.shape[2:] == self.input_shape[1:]:
                remedy = "give channels=3"
            raise DataError(f"{what} is {tuple(images.shape[1:])} but the first one {self.input_shape}; {remedy}")
        if images.dtype != self._dtype:
            raise DataError(f"{what} is {images.dtype} but the first one {self._dtype}; make all bytes or all floats")
        return images, labels

    def _first(self) -> tuple[Tensor, bool]:
        """Return the images of the first element, and whether it is a batch."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            elements = iter(self.reads) if not self.is_indexed else (self.reads[i] for i in range(len(self.reads)))
            element = next(elements, _END)
        if element is _END:
            raise DataError(f"the {type(self.reads).__name__} gives no images; it needs at least one")
        images, _ = tensors(element, "image 0", keys=self._keys, channels=self._channels)
        return images, isinstance(self.reads, DataLoader) or len(images) > 1

    def _count(self) -> None:
        """Read everything once, for the number of images and of classes."""
        length, highest = 0, 0
        for _, label in self._indexed_rows() if self.is_indexed else self.stream(0, shuffle=False):
            length, highest = length + 1, max(highest, int(label))
        self._length = length
        self._classes = self._classes or _names(highest + 1)

    def _indexed_rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(len(self)):
            yield from zip(*self.read([index], index), strict=True)

    def digest(self) -> bytes:
        """Return a SHA-256 by which a run knows its data again, without reading all: length, shape, and some images."""
        sha = hashlib.sha256(f"{len(self)} {self.input_shape} {self._dtype} {self.class_names}".encode())
        if self.is_indexed:
            step = max(1, len(self) // _IMAGES_OF_A_DIGEST)
            for tensor in self.read(range(0, len(self), step)[:_IMAGES_OF_A_DIGEST], seed=0):
                sha.update(tensor.contiguous().numpy().data)
        return sha.digest()


@dataclass(frozen=True, eq=False)
class Sources:
    """A data set that is read anew at every epoch: what :class:`DataSet` is for data in memory.

    Attributes:
        train: the training split.
        test: the held-out split; never used to select a model.
        name: for the record.
        note: what to print beside results made with it; empty where there is nothing to say.
        test_share: 0, since the data come split.

    Raises:
        DataError: on construction, when the splits disagree in image shape or there are fewer than two classes.
    """

    train: Source
    test: Source
    name: str = "own"
    note: str = ""
    test_share: float = 0.0

    def __post_init__(self) -> None:
        if self.train.input_shape != self.test.input_shape:
            raise DataError(
                f"{self.name}: training images are {self.train.input_shape} but test images {self.test.input_shape} "
                "(channels, height, width); make them one shape"
            )
        if self.num_classes < 2:
            raise DataError(f"{self.name}: {self.num_classes} class found; a classifier needs at least 2")

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the labels."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        """How many classes there are (m; without bottom)."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        return self.train.input_shape


def as_split(reads: Any) -> Split | Source:
    """Return ``reads`` as a split: itself where it is one, else a :class:`Source` of it."""
    return reads if isinstance(reads, Split | Source) else Source(reads)


def read(source: Any) -> Split:
    """Read all of a source into memory, once: random transforms then give the same images at every epoch.

    Args:
        source: a :class:`Source`, or what one can be made of.

    Returns:
        The split, in the source's order, uint8 where the source has bytes.

    Raises:
        DataError: as for :class:`Source`.
    """
    source = source if isinstance(source, Source) else Source(source)
    rows = source._indexed_rows() if source.is_indexed else source.stream(0, shuffle=False)
    images, labels = zip(*rows, strict=True)
    return Split(torch.stack(images), torch.stack(labels))


def as_sources(data: Any) -> Sources:
    """Make a data set of a pair (train, test), or of a mapping that has both, as Hugging Face's ``DatasetDict``.

    Raises:
        DataError: it is neither.
    """
    if isinstance(data, Sources):
        return data
    if isinstance(data, Mapping) and "train" in data and ("test" in data or "validation" in data):
        train, test = data["train"], data["test"] if "test" in data else data["validation"]
    elif isinstance(data, tuple) and len(data) == 2:
        train, test = data
    else:
        raise DataError(f"a {type(data).__name__} is no data set to train on; give (train, test), or a DataSet")
    train, test = (part if isinstance(part, Source) else Source(part) for part in (train, test))
    return Sources(train, test)


def _seeded(reads: Iterable[Any], seed: int) -> Iterator[Any]:
    """Iterate with torch's generator seeded, and apart from everybody else's use of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        iterator = iter(reads)
        state = torch.get_rng_state()
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            element = next(iterator, _END)
            state = torch.get_rng_state()
        if element is _END:
            return
        yield element


def _shuffled(rows: Iterator[tuple[Tensor, Tensor]], seed: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle a stream in a buffer of ``size`` images."""
    generator = torch.Generator().manual_seed(seed)
    # A row of a batch would keep all of the batch in memory.
    kept = [(image.clone(), label.clone()) for image, label in itertools.islice(rows, size)]
    places: Iterator[int] = iter(())
    for image, label in rows:
        place = next(places, None)
        if place is None:
            places = iter(torch.randint(size, (4096,), generator=generator).tolist())
            place = next(places)
        yield kept[place]
        kept[place] = image.clone(), label.clone()
    for place in torch.randperm(len(kept), generator=generator).tolist():
        yield kept[place]


def _length(reads: Any, batched: bool) -> int | None:
    """Return how many images ``reads`` says it has, if it does."""
    if isinstance(reads, DataLoader):
        if isinstance(reads.dataset, IterableDataset) or reads.batch_size is None:
            return None
        count = len(reads.sampler)  # type: ignore[arg-type]
        return count - count % reads.batch_size if reads.drop_last else count
    if batched:
        return None
    try:
        return len(reads)
    except (TypeError, NotImplementedError):
        return None


def _names(classes: int | Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    return tuple(str(name) for name in (range(classes) if isinstance(classes, int) else classes))


def _names_in(reads: Any, keys: tuple[Any, Any] | None) -> tuple[str, ...] | None:
    """Return the names of the classes that a data set has, or the one within it (``Subset``, ``DataLoader``)."""
    while reads is not None:
        names = getattr(reads, "classes", None)  # torchvision
        features = getattr(reads, "features", None)  # Hugging Face
        if isinstance(names, Sequence) and not isinstance(names, str):
            return _names([str(name) for name in names])
        if isinstance(features, Mapping):
            label = keys[1] if keys else key_of_label(list(features))
            return _names(getattr(features.get(label), "names", None))
        reads = getattr(reads, "dataset", None)
    return None
