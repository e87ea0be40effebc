from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gloro_fast.evaluate import Evaluation, evaluate
from gloro_fast.evaluate.curve import draw_vra, vra_steps
from gloro_fast.files import atomic

BY_HAND = Evaluation(
    labels=torch.tensor([0, 1, 2, 0, 1]),
    prediction=torch.tensor([0, 1, 1, 0, 1]),
    radius=torch.tensor([0.25, 1.0, 3.0, 0.25, torch.inf], dtype=torch.float64),
    lipschitz=1.0,
    method="power (estimate)",
    logits=torch.zeros(5, 3),
    executed=False,
    real_radius=torch.tensor([0.25, 1.0, 3.0, 0.25, torch.inf], dtype=torch.float64),
)


def test_steps_by_hand():
    radii, vra = vra_steps(BY_HAND)
    assert radii.tolist() == [0.0, 0.25, 0.25, 1.0]
    assert vra.tolist() == [0.8, 0.4, 0.4, 0.2]


def test_the_curve_is_vra_at_every_radius(net, digits):
    found = evaluate(net, digits.test)
    radii, vra = vra_steps(found)
    assert [found.vra(radius) for radius in radii[::20].tolist()] == vra[::20].tolist()


@pytest.mark.parametrize("radius", [None, 0.0, torch.inf])
def test_the_picture(net, digits, tmp_path, monkeypatch, radius):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    found = evaluate(net, digits.test)
    if radius is not None:
        found = dataclasses.replace(found, radius=torch.full_like(found.radius, radius))
    draw_vra(found, tmp_path / "vra.png", epsilon=0.3, title="digits", note="a note")
    with Image.open(tmp_path / "vra.png") as picture:
        picture.verify()
    (axes,) = drawn[0].axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("auto" in text for text in texts)
    assert any(f"{found.vra(0.3):.1%}" in text and "0.3" in text for text in texts)
    assert "radius" in axes.get_xlabel()
    assert axes.get_ylabel()
    assert axes.get_xlim()[1] > 0.3
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    picture = tmp_path / "vra.png"
    picture.write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        draw_vra(BY_HAND, picture, epsilon=0.3)
    assert [file.name for file in tmp_path.iterdir()] == ["vra.png"]
    assert picture.read_bytes() == b"old"
