"""Named tensors with a JSON document in one safetensors file, checked by a digest; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gloro_fast._version import __version__
from gloro_fast.errors import CheckpointError
from gloro_fast.files import atomic

FORMAT_VERSION = 1
_REMEDY = "use a copy of it, or train the run again"


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write ``path`` atomically.

    Args:
        path: the file; what it held before survives a failure.
        kind: what the file is, ``"model"`` for example; :func:`read` asks for the same.
        tensors: any shapes, dtypes and devices.
        document: what goes with them; anything that JSON can say.

    Raises:
        CheckpointError: the file system refuses, a full disk for example.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": f"gloro_fast {kind}",
        "format_version": str(FORMAT_VERSION),
        "written_by": f"gloro_fast {__version__}, torch {torch.__version__}",
        "document": json.dumps(document),
    }
    metadata["sha256"] = digest(plain, metadata["document"])
    # Written as bytes, so that what the disk refuses comes as an OSError whatever the serializer does.
    content = _in_order(save(plain, metadata))
    with saving(path):
        atomic.write_with(path, lambda temporary: temporary.write_bytes(content))


def _in_order(content: bytes) -> bytes:
    """Put the header of a safetensors file in order: its writer leaves the metadata in another one in every process."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Args:
        path: the file.
        kind: what it must be.

    Returns:
        The tensors, on the CPU, and the document.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, of another kind or of another format version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path of the run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_kind(path, kind, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({_first_line(error)}); {_REMEDY}") from None
    if metadata.get("sha256") != digest(tensors, metadata.get("document", "")):
        raise CheckpointError(f"{path} is damaged: its contents do not match their digest; {_REMEDY}")
    document: dict[str, Any] = json.loads(metadata["document"])
    return tensors, document


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line that says so.

    Raises:
        CheckpointError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise CheckpointError(
            f"cannot write {path} ({reason}); make room or choose another folder; what was saved before is kept"
        ) from error


def _check_kind(path: Path, kind: str, metadata: Mapping[str, str]) -> None:
    expected, found = f"gloro_fast {kind}", metadata.get("format")
    if found != expected:
        raise CheckpointError(f"{path} holds {found or 'tensors of another program'}, not a {expected}")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has format version {version}, this gloro_fast reads {FORMAT_VERSION}; use the version that "
            f"wrote it ({metadata.get('written_by', 'unknown')})"
        )


def digest(tensors: Mapping[str, Tensor], document: str = "") -> str:
    """Return the SHA-256 of names, dtypes, shapes and bits of all tensors, and the document.

    Args:
        tensors: any shapes, dtypes and devices.
        document: text that belongs to them.
    """
    hashed = hashlib.sha256(document.encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Copy ``tensors`` into all parameters and buffers of ``module``, or into none.

    Args:
        module: where to.
        tensors: one for each name in the module's ``state_dict``, of the same shape and dtype.
        complaint: how an error message begins.

    Raises:
        CheckpointError: names the first tensor that does not fit.
    """
    expected = module.state_dict()
    for name, own in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{complaint}: it lacks {name}, {_kind(own)}")
        if _kind(tensors[name]) != _kind(own):
            raise CheckpointError(f"{complaint}: {name} is {_kind(tensors[name])} instead of {_kind(own)}")
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{complaint}: it has {name}, which the net has not")
    with torch.no_grad():
        module.load_state_dict(dict(tensors))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
