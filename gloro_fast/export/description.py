"""What an exported file says of itself: whose weights, which bound, which arithmetic."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gloro_fast._version import __version__
from gloro_fast.errors import CertificateError
from gloro_fast.export.onnx_packages import imported
from gloro_fast.files.certificate_record import weights_digest
from gloro_fast.net.gloro_net import GloRoNet

METADATA_KEY = "gloro_fast"
"""The entry of a file's metadata that holds the description, as JSON."""
_FORMAT_VERSION = 1
_REAL = "real arithmetic on the logits as the program computes them"
_EXECUTED = (
    "the program as it runs: every layer sums of products in {dtype}, in any order, with or without fused "
    "multiply-adds and subnormal numbers; not TF32, bfloat16, float16, Winograd or FFT"
)


@dataclass(frozen=True)
class Description:
    """What is to be known of an exported net.

    Attributes:
        weights: SHA-256 of names, types, shapes and bits of all parameters and buffers of the classifier, as in
            certificate files: those that the bound was found for, and constants of the program.
        method: the method that found the bound, with "(estimate)" where it is none but that.
        lipschitz: K.
        margins: which constants K_ij margins have.
        epsilon: the l2 radius that the prediction stands for.
        executed: whether the rounding of the program is covered.
        arithmetic: what the radius holds for, in words.
        pixel_range: smallest and largest pixel; others get radius 0.
        input_shape: of one image, in units of which the radius is; a normalisation is part of the program.
        dtype: of images and logits.
        classes: the number m of classes; a prediction of m is bottom.
        written_by: name and version of this package, and of torch.
    """

    weights: str
    method: str
    lipschitz: float
    margins: str
    epsilon: float
    executed: bool
    arithmetic: str
    pixel_range: tuple[float, float]
    input_shape: tuple[int, ...]
    dtype: str
    classes: int
    written_by: str

    @classmethod
    def of(cls, net: GloRoNet, pixel_range: tuple[float, float], executed: bool) -> Self:
        """Describe ``net`` as it is exported."""
        import torch

        dtype = next((str(p.dtype) for p in net.parameters()), "torch.float32").removeprefix("torch.")
        return cls(
            weights=weights_digest(net.module),
            method=net.bound.label,
            lipschitz=net.lipschitz,
            margins=net.margin_form,
            epsilon=net.epsilon,
            executed=executed,
            arithmetic=_EXECUTED.format(dtype=dtype) if executed else _REAL,
            pixel_range=pixel_range,
            input_shape=net.input_shape,
            dtype=dtype,
            classes=net.num_classes,
            written_by=f"gloro_fast {__version__}, torch {torch.__version__}",
        )

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps({"format_version": _FORMAT_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        content = json.loads(text)
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(content, dict) or content.get("format_version") != _FORMAT_VERSION:
            raise ValueError(f"it is not of format_version {_FORMAT_VERSION}")
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"it lacks {missing[0]}")
        values: dict[str, Any] = {name: content[name] for name in names}
        values["pixel_range"], values["input_shape"] = tuple(values["pixel_range"]), tuple(values["input_shape"])
        return cls(**values)


def read_description(path: Path | str) -> Description:
    """Read the description of a file that :func:`gloro_fast.export.export_net` wrote, without running anything of it.

    Raises:
        CertificateError: there is no such file, or it has no description.
        ConfigError: it is an ONNX file, and the package onnx is missing.
    """
    path = Path(path)
    try:
        text = _in_zip(path) if zipfile.is_zipfile(path) else _in_onnx(path)
        return Description.from_json(text)
    except (OSError, ValueError, KeyError) as error:
        raise CertificateError(f"{path} has no description of a GloRo net ({error}); export the net again") from None


def _in_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{METADATA_KEY}"):
                return archive.read(name).decode()
            if name.endswith("_metadata.json"):
                found = json.loads(archive.read(name))
                if METADATA_KEY in found:
                    return str(found[METADATA_KEY])
    raise ValueError("no entry of the archive is one")


def _in_onnx(path: Path) -> str:
    try:
        model = imported("onnx").load(path, load_external_data=False)
    except imported("google.protobuf.message").DecodeError as error:
        raise ValueError(str(error)) from None
    return str({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
