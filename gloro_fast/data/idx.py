"""Read IDX, the format of MNIST's files: four bytes of magic, the dimensions, bare bytes; perhaps gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from gloro_fast.data.causes import cause
from gloro_fast.errors import DataError

_UNSIGNED_BYTE = 0x08
_CHUNK = 1 << 20


def read(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, every byte of it accounted for.

    Args:
        path: the file, plain or gzipped (its content tells, not its name).
        dimensions: how many the file must have: 3 for images, 1 for labels.

    Returns:
        uint8, in the shape that the file states.

    Raises:
        DataError: unreadable, wrong magic, truncated, or longer than it states; names the file.
    """
    try:
        with open(path, "rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not gzipped:
                return _parse(raw, path, dimensions)
            with gzip.open(raw, "rb") as unpacked:
                return _parse(cast("BinaryIO", unpacked), path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({cause(error)}); download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error


def _parse(stream: BinaryIO, path: Path, dimensions: int) -> Tensor:
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    found = stream.read(4)
    if found != magic:
        raise DataError(
            f"{path} is not an IDX file of {dimensions}-dimensional bytes: it starts with "
            f"{found.hex() or 'nothing'} where {magic.hex()} is expected; is it another file under this name?"
        )
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path} is truncated within its header; download it again")
    shape = struct.unpack(f">{dimensions}I", header)
    expected = math.prod(shape)
    body = bytearray()
    # In pieces: a damaged header may state terabytes. To the end of the stream: gzip checks its sum there.
    while len(body) <= expected and (chunk := stream.read(_CHUNK)):
        body += chunk
    if len(body) != expected:
        fault = "is truncated" if len(body) < expected else "has trailing bytes"
        found_bytes = f"{len(body)} were found" if len(body) < expected else "more were found"
        raise DataError(f"{path} {fault}: its header states {expected} bytes, {found_bytes}; download it again")
    if expected == 0:
        raise DataError(f"{path} is empty: its header states the shape {shape}; download it again")
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)
