"""The exceptions of the package: each message names the thing, its value and the remedy in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GloroFastError(Exception):
    """Base of everything this package raises on purpose; the command line prints it and exits with 2."""


class ConfigError(GloroFastError, ValueError):
    """A recipe, field, option or argument is unknown or has a value that cannot be used."""


class DataError(GloroFastError, ValueError):
    """A data file is missing, truncated, of the wrong kind, or holds values that do not fit the net."""


class UnknownLayerError(GloroFastError, TypeError):
    """A module has no known Lipschitz constant; counting it as 1 would certify what is not robust."""


class ArchitectureError(GloroFastError, ValueError):
    """The module cannot be made a GloRo net: wrong shapes, too few classes, shared head, hooks."""


class StaleBoundError(GloroFastError, RuntimeError):
    """The weights of a frozen net are no longer those its Lipschitz bound was computed for."""


class FrozenError(GloroFastError, RuntimeError):
    """Something that the frozen bound fixes was about to be changed."""


class ExecutionError(GloroFastError, ArithmeticError):
    """A forward pass does not round as sums of products do, which an executed certificate rests on."""


class SoundnessError(GloroFastError, ArithmeticError):
    """A net does what its bound rules out: the bound, or what was measured against it, is wrong."""


class CheckpointError(GloroFastError, RuntimeError):
    """A checkpoint or run folder is damaged, of another architecture, or does not fit the request."""


class CertificateError(GloroFastError, RuntimeError):
    """A certificate file is missing, truncated, damaged or edited, or of another format."""


class DistributedError(GloroFastError, RuntimeError):
    """The processes of a group cannot go on together: one has ended, hangs, or has not what the others have."""


class PeerError(DistributedError):
    """Another process of the group has failed and said why; a command ends without a word."""


class DivergenceError(GloroFastError, ArithmeticError):
    """The training loss became NaN or infinite; the last good checkpoint is kept."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of ``names`` was probably meant, or list them all, as the end of an error message."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(known)}"
