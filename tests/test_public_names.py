"""Names that users write are found where they have always been."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
# What stood in README, docs and examples before the package had rooms, and what the package itself lists.
KNOWN = (
    "Certificate", "GloRoNet", "__version__", "architectures.build", "bounds.METHODS", "bounds.bound_network",
    "certificate_file.CertificateFile.of", "certificate_file.CertificateFile.read",
    "certificate_file.CertificateFile.write", "cli.main", "convert", "data.load", "doctor.examine",
    "evaluate.evaluate", "kernels", "keras_weights.load_keras", "losses.CrossEntropyLoss", "losses.EmmaLoss",
    "losses.TradesLoss", "nn.Conv2d", "nn.Diagonal", "nn.GroupSort", "nn.Householder", "nn.LinearMap",
    "nn.LipschitzConstant", "nn.MinMax", "nn.Normalize", "nn.PairwiseMinMax", "nn.ResidualConv2d", "nn.Scale",
    "nn.register_lipschitz_function", "nn.register_lipschitz_rule", "ops.fingerprint", "ops.margin", "ops.minmax",
    "ops.minmax_", "ops.power_iteration", "ops.power_iteration_gpu.enough_multiprocessors", "recipes.get", "revert",
    "schedules.parse_lambda", "train.GraphedStep", "train.Trainer",
)  # fmt: skip


def found(name: str) -> object:
    """Import as much of a dotted name as is modules, and look the rest up."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            value = getattr(value, attribute)
        return value
    raise ModuleNotFoundError(name)


def written() -> set[str]:
    """Collect the names that pages import or write out."""
    names = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for module, what in re.findall(r"^\s*from (gloro_fast[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
            names |= {f"{module}.{name.split(' as ')[0].strip()}" for name in what.split(",")}
        names |= set(re.findall(r"(?<![\w/.:])gloro_fast(?:\.\w+)+", text))
    return names


@pytest.mark.parametrize("name", sorted(written() | {f"gloro_fast.{name}" for name in KNOWN}))
def test_a_public_name_is_there(name):
    assert found(name) is not None


def test_names_are_read_from_the_pages():
    expected = {"keras_weights.load_keras", "train.GraphedStep", "convert"}
    assert {f"gloro_fast.{name}" for name in expected} <= written()


def test_a_name_that_is_gone_is_noticed():
    for name in ("gloro_fast.nn.MaxMin", "gloro_fast.lost.name"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            found(name)
