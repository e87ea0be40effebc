"""Which nets of torchvision and timm a GloRo net accepts, and whether it then gives their logits.

``python -m benchmarks.model_zoo [--only resnet]``, where torchvision and timm can be imported. They need not be
installed beside torch: ``pip install --no-deps --target FOLDER torchvision timm huggingface_hub httpx2 httpcore2 h11
anyio idna certifi truststore pyyaml`` and FOLDER on the PYTHONPATH do, also where torchvision's library was built for
another torch. No weights are downloaded, and nothing is bounded.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gloro_fast import GloRoNet
from gloro_fast.errors import GloroFastError

# What torch knows of the operators for detection, which an import of torchvision without its library asks for.
_OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "qroi_align",
    "roi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "deform_conv2d",
    "_roi_align_backward",
    "_roi_pool_backward",
    "_ps_roi_align_backward",
    "_ps_roi_pool_backward",
    "_deform_conv2d_backward",
)

_GATE = "a gate multiplies channels by what is made of the image"
_NORM = "LayerNorm divides by the image's own deviation"

# Name, pixels, and why it has no Lipschitz constant where it has none.
TORCHVISION: tuple[tuple[str, int, str], ...] = (
    ("alexnet", 96, ""),
    ("vgg11", 64, ""),
    ("vgg11_bn", 64, ""),
    ("resnet18", 64, ""),
    ("resnet34", 64, ""),
    ("resnet50", 64, ""),
    ("wide_resnet50_2", 64, ""),
    ("resnext50_32x4d", 64, ""),
    ("densenet121", 64, ""),
    ("googlenet", 64, ""),
    ("inception_v3", 96, ""),
    ("squeezenet1_0", 64, ""),
    ("squeezenet1_1", 64, ""),
    ("shufflenet_v2_x1_0", 64, ""),
    ("mobilenet_v2", 64, ""),
    ("mobilenet_v3_small", 64, _GATE),
    ("mnasnet1_0", 64, ""),
    ("efficientnet_b0", 64, _GATE),
    ("regnet_y_400mf", 64, _GATE),
    ("regnet_x_400mf", 64, ""),
    ("convnext_tiny", 64, _NORM),
)
TIMM: tuple[tuple[str, int, str], ...] = (
    ("resnet18", 64, ""),
    ("resnet34", 64, ""),
    ("resnet50", 64, ""),
    ("resnext50_32x4d", 64, ""),
    ("wide_resnet50_2", 64, ""),
    ("dla34", 64, ""),
    ("dla60", 64, ""),
    ("dpn48b", 64, ""),
    ("mobilenetv2_050", 64, ""),
    ("regnetx_004", 64, ""),
    ("resnet26d", 64, ""),
    ("selecsls60", 64, ""),
    ("hrnet_w18_small", 64, ""),
    ("selecsls42b", 64, ""),
    ("convmixer_768_32", 64, ""),
    ("vgg11_bn", 64, ""),
    ("mobilenetv2_100", 64, ""),
    ("efficientnet_lite0", 64, ""),
    ("repvgg_a0", 64, ""),
    ("darknet53", 64, ""),
    ("cspresnet50", 64, ""),
    ("densenet121", 64, ""),
    ("inception_v3", 96, ""),
    ("tf_efficientnet_lite0", 64, ""),
    ("regnetx_002", 64, ""),
    ("rexnet_100", 64, _GATE),
    ("res2net50_26w_4s", 64, ""),
    ("skresnet18", 64, "branches are weighted by what is made of the image"),
    ("seresnet18", 64, _GATE),
    ("ghostnet_100", 64, _GATE),
    ("hardcorenas_a", 64, _GATE),
    ("mnasnet_100", 64, ""),
    ("spnasnet_100", 64, ""),
    ("fbnetc_100", 64, ""),
    ("cspdarknet53", 64, ""),
    ("resnest14d", 64, "branches are weighted by what is made of the image"),
)
# Without auxiliary logits, and without a way of drawing weights that takes minutes.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_EPSILON = 0.1
_SAME = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What came of one net.

    Attributes:
        name: of the net, with its package.
        seconds: of processor time that the construction of the GloRo net took.
        refusal: the message with which it was refused, or empty.
        wrong: what an accepted net did wrong, or empty.
        reason: why it should be refused, or empty.
    """

    name: str
    seconds: float
    refusal: str
    wrong: str
    reason: str


def executed_logits(net: GloRoNet, x: Tensor) -> Tensor:
    """Return the class logits that the net executes in evaluation, without finding its bound first."""
    net.eval()
    return net._plan.run(x)


def examine(name: str, build: Callable[[], nn.Module], pixels: int, reason: str) -> Outcome:
    """Make a GloRo net of a net with random weights and compare their logits."""
    torch.manual_seed(0)
    module = build()
    shape = (3, pixels, pixels)
    _give_statistics(module, shape)
    x = torch.randn(2, *shape)
    refusal = wrong = ""
    net: GloRoNet | None = None
    start = time.process_time()
    try:
        net = GloRoNet(module, _EPSILON, shape)
    except GloroFastError as error:
        refusal = str(error)
    except Exception as error:  # Whatever is no error of the package is a fault of it.
        wrong = f"construction raises {type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if net is not None:
        with torch.no_grad():
            expected = module(x.clone())
            wrong = _difference(expected, partial(executed_logits, net), x)
    return Outcome(name, seconds, refusal, wrong, reason)


def _difference(expected: Tensor, function: Callable[[Tensor], Tensor], x: Tensor) -> str:
    spread = float((expected[0] - expected[1]).abs().max() / expected.abs().max())
    if not spread > 10 * _SAME:
        return f"nothing is compared: the logits of two images differ by {spread:.1e} only"
    try:
        found = function(x.clone())
    except Exception as error:
        return f"running raises {type(error).__name__}: {error}"
    off = float((found - expected).abs().max() / expected.abs().max())
    return "" if off <= _SAME else f"logits differ by {off:.1e}"


@torch.no_grad()
def _give_statistics(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Give every BatchNorm statistics near those of random images, so that logits depend on the image; evaluation mode.

    Left as they are made, or drawn without regard to the images, they would let values grow or vanish layer by layer.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        module.train()
        module(torch.randn(8, *shape))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.2)
    module.eval()


def _prepare_torchvision() -> torch.library.Library:
    """Declare torchvision's operators where its library is not there for this build of torch.

    Returns:
        What holds the declarations: they end with it.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}() -> ()")  # type: ignore[no-untyped-call]
    return library


def main(arguments: list[str]) -> int:
    """Try the nets, print a line for each and one for all, and give 1 if any was wrong or refused without a reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_zoo", description=__doc__)
    parser.add_argument("--only", default="", help="nets with this in their name, such as timm.resnet")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    declared = _prepare_torchvision()
    models, timm = importlib.import_module("torchvision.models"), importlib.import_module("timm")
    zoo: list[tuple[str, Callable[[], nn.Module], int, str]] = [
        (f"torchvision.{name}", partial(models.get_model, name, weights=None, **_OPTIONS.get(name, {})), pixels, reason)
        for name, pixels, reason in TORCHVISION
    ]
    zoo += [
        (f"timm.{name}", partial(timm.create_model, name, pretrained=False), pixels, reason)
        for name, pixels, reason in TIMM
    ]
    outcomes = []
    for net in zoo:
        if options.only in net[0]:
            outcomes.append(examine(*net))
            print(_line(outcomes[-1]), flush=True)
            gc.collect()
    del declared
    print(f"\n{_summary(outcomes)}")
    return int(any(outcome.wrong or (outcome.refusal and not outcome.reason) for outcome in outcomes))


def _line(outcome: Outcome) -> str:
    if outcome.wrong:
        result = f"WRONG    {outcome.wrong}"
    elif outcome.refusal:
        result = f"refused{' ' if outcome.reason else '!'} {outcome.refusal}"
    elif outcome.reason:
        result = f"WRONG    accepted, though {outcome.reason}"
    else:
        result = "accepted"
    return f"{outcome.name:32} {outcome.seconds:6.1f} s  {result}"


def _summary(outcomes: list[Outcome]) -> str:
    accepted = [o for o in outcomes if not (o.refusal or o.wrong or o.reason)]
    rightly = [o.name for o in outcomes if o.refusal and not o.wrong and o.reason]
    wrongly = [o.name for o in outcomes if o.refusal and not o.wrong and not o.reason]
    wrong = [o.name for o in outcomes if o.wrong or (o.reason and not o.refusal)]
    seconds = sum(o.seconds for o in outcomes)
    return (
        f"{len(accepted)} of {len(outcomes)} accepted with equal outputs, all constructions in {seconds:.0f} s of "
        "processor time; "
        f"refused with reason: {', '.join(rightly) or 'none'}; refused without: {', '.join(wrongly) or 'none'}; "
        f"wrong: {', '.join(wrong) or 'none'}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
