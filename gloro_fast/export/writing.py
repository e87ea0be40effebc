"""Writing a net with its certificate as a file for another runtime, and running the file once before it counts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError, ExecutionError
from gloro_fast.export.certifying_module import CertifyingModule
from gloro_fast.export.description import METADATA_KEY, Description
from gloro_fast.export.onnx_packages import imported
from gloro_fast.files.atomic import replacing
from gloro_fast.net.gloro_net import GloRoNet

_OUTPUTS = ("logits", "prediction", "radius")
# Another runtime may sum in another order; beside logits near 0 only the size of the others counts.
_AGREEMENT = 1e-3

Program = Callable[[Tensor], tuple[Tensor, ...]]


def export_net(
    net: GloRoNet,
    path: Path | str,
    format: str = "onnx",
    *,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    executed: bool = True,
) -> Description:
    """Write ``net`` with its certificate to one file that gives radii without this package.

    Inputs and outputs are those of :class:`gloro_fast.export.CertifyingModule`, for any number of images; in ONNX they
    are called images, logits, prediction and radius. The file is run on a few images, and must give what the net gives,
    before it takes its name.

    Args:
        net: in evaluation mode, on the CPU; its bound is that of ``net.bound``, so freeze it by the method wanted.
        path: the file to write.
        format: ``"onnx"``, ``"pt2"`` (``torch.export``) or ``"aoti"`` (a package compiled by AOTInductor for this
            machine's kind of processor).
        pixel_range: smallest and largest pixel; images with others get radius 0.
        executed: subtract an allowance for the rounding of the program that runs the file, at the image and around it.
            Without it the radius holds for real arithmetic on the logits as that program computes them.

    Returns:
        What the file says of itself, under ``METADATA_KEY``.

    Raises:
        ConfigError: there is no such format, a package that writes it is missing, or as for ``CertifyingModule``; ONNX
            and executed, with a layer that ONNX Runtime multiplies into the weights before it.
        StaleBoundError: the net is frozen and its weights have changed.
        ArchitectureError: executed, and it is not known how a layer rounds; names it.
        ExecutionError: the file gives something else than the net.
        OSError: the file cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; choose one of {', '.join(FORMATS)}")
    module = CertifyingModule(net, pixel_range, executed)
    if format == "onnx" and executed and (scaled := net.scaled_layers()):
        raise ConfigError(
            f"{scaled[0]} is multiplied into the weights before it by ONNX Runtime, whose rounding no bound covers; "
            "export with executed=False (--no-executed), or as pt2"
        )
    description = Description.of(net, pixel_range, executed)
    examples = _examples(net, pixel_range)
    with torch.no_grad():
        program = torch.export.export(module, (examples[:4],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    content, run = FORMATS[format](program, description.to_json())
    _check_agreement(run, module, examples)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
    return description


def _pt2(program: torch.export.ExportedProgram, description: str) -> tuple[bytes, Program]:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_KEY: description})
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


def _aoti(program: torch.export.ExportedProgram, description: str) -> tuple[bytes, Program]:
    file = io.BytesIO()
    configs = {"aot_inductor.metadata": {METADATA_KEY: description}}
    torch._inductor.aoti_compile_and_package(program, package_path=file, inductor_configs=configs)
    file.seek(0)
    return file.getvalue(), torch._inductor.aoti_load_package(file)


def _onnx(program: torch.export.ExportedProgram, description: str) -> tuple[bytes, Program]:
    imported("onnxscript")
    onnx, runtime = imported("onnx"), imported("onnxruntime")
    with warnings.catch_warnings():
        # It warns of deprecated parts of itself.
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=list(_OUTPUTS), verbose=False
        )
    assert written is not None
    model = written.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: description})
    content = model.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(_OUTPUTS, {"images": images.numpy()})))

    return content, run


FORMATS: dict[str, Callable[[torch.export.ExportedProgram, str], tuple[bytes, Program]]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "aoti": _aoti,
}
"""What writes a program in each format: its bytes, and the same loaded again."""


def _examples(net: GloRoNet, pixel_range: tuple[float, float]) -> Tensor:
    """Return images of random pixels, and one that must get radius 0."""
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    low, high = pixel_range
    images = torch.rand(9, *net.input_shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    # Rounded, low + (high - low) may be above high.
    images = (low + images * (high - low)).clamp(low, high)
    images[8] = torch.nan
    return images


@torch.no_grad()
def _check_agreement(run: Program, module: CertifyingModule, images: Tensor) -> None:
    wanted, found = module(images), run(images)
    names = [name for name, ours, theirs in zip(_OUTPUTS, wanted, found, strict=True) if not _agree(ours, theirs)]
    if names or bool(found[2][8] != 0):
        raise ExecutionError(
            f"the exported program gives another {names[0] if names else 'radius for NaN'} than the net; "
            "export it in another format"
        )


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        # A radius next to epsilon may be on either side.
        return int((ours != theirs).sum()) <= 1
    size = float(ours[:8].abs().masked_fill(ours[:8].isinf(), 0).max())
    return torch.allclose(ours[:8], theirs[:8], rtol=_AGREEMENT, atol=_AGREEMENT * size)
