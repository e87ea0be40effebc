"""Data sets in memory or read anew, mini-batches in a resumable order, and augmentation on the training device.

Stands on ``pixels``; training, evaluation, the audit, reproductions and the command line load and batch with it.
"""

from gloro_fast.data.augment import AUGMENTATIONS, augmentation
from gloro_fast.data.augment.noise import gaussian_noise
from gloro_fast.data.batches import Batches, split_validation
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.data.loading import NAMES, load
from gloro_fast.data.source import Source, Sources, as_sources, as_split, read
from gloro_fast.data.source_batches import SourceBatches
from gloro_fast.pixels import check_shape, to_float

__all__ = [
    "AUGMENTATIONS",
    "NAMES",
    "Batches",
    "DataSet",
    "Source",
    "SourceBatches",
    "Sources",
    "Split",
    "as_sources",
    "as_split",
    "augmentation",
    "check_shape",
    "gaussian_noise",
    "load",
    "read",
    "split_validation",
    "to_float",
]
