"""What each entry of a certificate file must be: its type and range, told in the words of the error."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gloro_fast.errors import nearest

_LONGEST = 200
_SHOWN = 40
# Whole numbers up to here are floats.
_LARGEST_WHOLE = 2**53


@dataclass(frozen=True)
class Entry:
    """A kind of value.

    Attributes:
        words: what it must be.
        fits: whether a value is one.
    """

    words: str
    fits: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """Refuse a ``value`` that does not fit.

        Raises:
            ValueError: names the entry, the value and what it must be.
        """
        if not self.fits(value):
            raise ValueError(f"{name} is {_shown(value)}; it must be {self.words}")


@dataclass(frozen=True)
class ListOf:
    """A list of one kind of value."""

    entry: Schema

    def check(self, name: str, value: Any) -> None:
        """Refuse what is no list, or has an item that does not fit; as :meth:`Entry.check`."""
        _LIST.check(name, value)
        for place, item in enumerate(value):
            self.entry.check(f"{name}[{place}]", item)


@dataclass(frozen=True)
class Table:
    """A table with these entries, all of them and no other."""

    entries: Mapping[str, Schema]

    def check(self, name: str, value: Any) -> None:
        """Refuse what is no table, lacks an entry, or has one that no one knows; as :meth:`Entry.check`."""
        _TABLE.check(name, value)
        for key in value:
            if key not in self.entries:
                raise ValueError(f"{name} has an entry {_shown(key)}{nearest(key, self.entries)}")
        for key, entry in self.entries.items():
            if key not in value:
                raise ValueError(f"{name} has no entry {key!r}")
            entry.check(key if name == _WHOLE else f"{name}.{key}", value[key])


Schema = Entry | ListOf | Table


def check_document(document: Any) -> None:
    """Refuse what is no certificate: an entry too many or too few, or of another type or range.

    Raises:
        ValueError: names the entry, the value and what it must be.
    """
    _DOCUMENT.check(_WHOLE, document)
    count, shape = len(document["labels"]), document["logits"]["shape"]
    if len(shape) != 2 or shape[0] != count or not count or shape[1] < 2:
        raise ValueError(f"logits are of shape {_shown(shape)} for {count} labels")
    for name in ("prediction", "margin", "radius", "real_radius", "certified"):
        if len(document[name]) != count:
            raise ValueError(f"{name} has {len(document[name])} entries for {count} labels")
    for name in ("labels", "prediction"):
        for place, value in enumerate(document[name]):
            if value >= shape[1]:
                raise ValueError(f"{name}[{place}] is {value}; there are {shape[1]} classes, from 0")


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _number(value: Any) -> bool:
    """Return whether it is a float, infinite or not, or a whole number that is one; not NaN, and no bool."""
    if type(value) is int:
        return abs(value) <= _LARGEST_WHOLE
    return type(value) is float and not math.isnan(value)


def _one_of(*choices: str) -> Entry:
    return Entry(" or ".join(map(repr, choices)), lambda value: value in choices)


def _optional(entry: Entry) -> Entry:
    return Entry(f"{entry.words}, or null", lambda value: value is None or entry.fits(value))


_WHOLE = "the file"
_LIST = Entry("a list", lambda value: type(value) is list)
_TABLE = Entry("a table", lambda value: type(value) is dict)
# What is shown to a person must not move the cursor or break a line.
_TEXT = Entry(
    f"printable text of at most {_LONGEST} characters",
    lambda value: type(value) is str and len(value) <= _LONGEST and value.isprintable(),
)
_ANY_TEXT = Entry("text", lambda value: type(value) is str)
_DIGEST = Entry(
    "64 hexadecimal digits",
    lambda value: type(value) is str and len(value) == 64 and set(value) <= set(string.hexdigits),
)
_FLAG = Entry("true or false", lambda value: type(value) is bool)
_COUNT = Entry("a whole number >= 0", lambda value: type(value) is int and 0 <= value <= _LARGEST_WHOLE)
_SIZE = Entry("a whole number >= 1", lambda value: type(value) is int and 1 <= value <= _LARGEST_WHOLE)
_SIGNED = Entry("a number", lambda value: _number(value) or (type(value) is float and math.isnan(value)))
_NONNEGATIVE = Entry("a number >= 0", lambda value: _number(value) and value >= 0)
_POSITIVE = Entry("a finite number > 0", lambda value: _number(value) and 0 < value < math.inf)
_SHARE = Entry("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
_KIND = _one_of("exact", "upper bound", "estimate")

_LAYER = Table(
    {
        "name": _TEXT,
        "value": _NONNEGATIVE,
        "method": _TEXT,
        "kind": _KIND,
        "power": _optional(_NONNEGATIVE),
        "tightness": _optional(_NONNEGATIVE),
        "absolute": _optional(_NONNEGATIVE),
    }
)
_DOCUMENT = Table(
    {
        "written_by": Table(dict.fromkeys(("gloro_fast", "torch", "numpy", "python"), _TEXT)),
        "weights": _DIGEST,
        "modules": ListOf(ListOf(_ANY_TEXT)),
        "input_shape": ListOf(_SIZE),
        "data": _TEXT,
        "part": _one_of("test", "train"),
        "data_digest": _DIGEST,
        "epsilon": _POSITIVE,
        "executed": _FLAG,
        "method": _TEXT,
        "kind": _KIND,
        "lipschitz": _NONNEGATIVE,
        "layers": ListOf(_LAYER),
        "differences": ListOf(_NONNEGATIVE),
        "differences_sha256": _DIGEST,
        "labels": ListOf(_COUNT),
        "prediction": ListOf(_COUNT),
        "margin": ListOf(_SIGNED),
        "radius": ListOf(_NONNEGATIVE),
        "real_radius": ListOf(_NONNEGATIVE),
        "certified": ListOf(_FLAG),
        "logits": Table({"dtype": _one_of("float32", "float64"), "shape": ListOf(_COUNT), "base64": _ANY_TEXT}),
        "summary": Table(dict.fromkeys(("clean_accuracy", "certified", "vra", "real_certified", "real_vra"), _SHARE)),
    }
)
