"""A JSON document in a file, checked by a digest; floats read back as the very same, also those that are not finite."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from gloro_fast.errors import CertificateError
from gloro_fast.files import atomic

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_REMEDY = "use a copy of it, or certify again"


def write(path: Path, kind: str, version: int, document: dict[str, Any]) -> None:
    """Write ``path`` atomically.

    Args:
        path: the file; what it held before survives a failure.
        kind: what the file is; :func:`read` asks for the same.
        version: of the format.
        document: dictionaries with string keys, lists, strings, numbers, None; numbers for which JSON has no word
            become the strings "inf", "-inf" and "nan", which may not be there otherwise.

    Raises:
        OSError: the file system refuses.
    """
    entries: dict[str, Any] = {"format": kind, "format_version": version, **_encode(document)}
    entries["checksum"] = _checksum(entries)
    # A line for each entry, so that a person can read it and a diff tells what changed.
    lines = ",\n".join(f"{json.dumps(key)}: {_json(value)}" for key, value in entries.items())
    atomic.write_text(path, f"{{\n{lines}\n}}\n")


def read(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read what :func:`write` wrote.

    Raises:
        CertificateError: the file is missing, truncated, edited, of another kind or of another version.
    """
    if not path.is_file():
        raise CertificateError(f"there is no file {path}; check the path")
    try:
        text = path.read_text(encoding="utf-8")
        return _document(path, json.loads(text, parse_constant=_refuse, object_pairs_hook=_each_once), kind, version)
    except (ValueError, OSError, RecursionError) as error:
        raise CertificateError(f"{path} is truncated or damaged ({error}); {_REMEDY}") from None


def _document(path: Path, entries: Any, kind: str, version: int) -> dict[str, Any]:
    if not isinstance(entries, dict) or entries.get("format") != kind:
        raise CertificateError(f"{path} is no {kind}; check the path")
    found = entries.get("format_version")
    # Of the same type too: true equals 1.
    if type(found) is not int or found != version:
        raise CertificateError(
            f"{path} has format version {ascii(found)[:20]}, this gloro_fast reads {version}; use the one that wrote it"
        )
    checksum = entries.pop("checksum", None)
    if checksum != _checksum(entries):
        raise CertificateError(f"{path} was edited or damaged: its contents do not match their checksum; {_REMEDY}")
    document: dict[str, Any] = _decode(
        {key: value for key, value in entries.items() if key not in ("format", "format_version")}
    )
    return document


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary; of two entries of one name a person may read one and the program the other."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an entry is there twice: {ascii(max(names, key=names.count))[:80]}")
    return entries


def _checksum(entries: dict[str, Any]) -> str:
    canonical = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _json(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in value)
        return f"[\n{rows}\n]"
    return json.dumps(value, allow_nan=False)


def _encode(value: Any) -> Any:
    """Replace numbers for which JSON has no word by strings."""
    match value:
        case dict():
            return {key: _encode(item) for key, item in value.items()}
        case list():
            return [_encode(item) for item in value]
        case float() if not math.isfinite(value):
            return str(value)
    return value


def _decode(value: Any) -> Any:
    match value:
        case dict():
            return {key: _decode(item) for key, item in value.items()}
        case list():
            return [_decode(item) for item in value]
        case str() if value in _NOT_FINITE:
            return _NOT_FINITE[value]
    return value
