from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gloro_fast.data import AUGMENTATIONS, augmentation
from gloro_fast.data.augment.keras import KerasAffine
from gloro_fast.data.augment.tfds import FlipZoomBrightness
from gloro_fast.data.augment.warp import resample, sampling
from gloro_fast.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, channels: int = 3, height: int = 9, width: int = 12) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=seeded(99))


def one_map(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def warp(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    return resample(images, sampling(maps, *images.shape[-2:]).to(images))


# ----------------------------------------------------------------------------------------------- the warp itself


def test_the_identity_map_changes_nothing():
    images = pictures(1)
    assert torch.allclose(warp(images, one_map([[1, 0, 0], [0, 1, 0]])), images, atol=1e-5)


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, 3), (-1, 2)])
def test_a_shift_by_whole_pixels_moves_the_picture_and_repeats_the_border(down, right):
    images = pictures(1)
    shifted = warp(images, one_map([[1, 0, down], [0, 1, right]]))
    rows = (torch.arange(9) + down).clamp(0, 8)
    columns = (torch.arange(12) + right).clamp(0, 11)
    assert torch.allclose(shifted, images[:, :, rows][:, :, :, columns], atol=1e-5)


def test_a_quarter_turn_of_a_square_picture():
    images = pictures(1, height=8, width=8)
    turned = warp(images, one_map([[0, -1, 0], [1, 0, 0]]))  # input row = -output column
    assert torch.allclose(turned, torch.rot90(images, -1, (2, 3)), atol=1e-5)


def test_the_warp_is_scipys_affine_transform():
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy, the oracle, comes with scikit-learn")
    images = pictures(6)
    maps = KerasAffine(rotation=40, shift=0.3, shear=20, zoom=0.4, flip=True).maps(6, 9, 12, seeded())
    found = warp(images.double(), maps)
    centre = np.array([4.0, 5.5])
    for image, result, map_ in zip(images.double().numpy(), found.numpy(), maps.numpy(), strict=True):
        linear, offset = map_[:, :2], map_[:, 2]
        for channel, warped in zip(image, result, strict=True):
            oracle = ndimage.affine_transform(
                channel, linear, centre + offset - linear @ centre, order=1, mode="nearest"
            )
            assert np.allclose(warped, oracle, atol=1e-12)


def test_rounding_takes_no_pixel_out_of_the_range_of_its_image():
    images = torch.full((200, 1, 16, 16), 0.7)
    images[100:] = 1
    assert torch.equal(augmentation("default")(images, seeded()), images)


# ------------------------------------------------------------------------------------------ Keras's augmentation


def test_keras_composes_rotation_shift_shear_zoom_about_the_centre():
    """The matrices as Keras multiplies them, rebuilt from the parameters that the maps must have come from."""
    settings = KerasAffine(rotation=25, shift=0.2, shear=15, zoom=0.3, flip=True)
    reach = np.array([25, 0.2 * 10, 0.2 * 16, 15, 0.3, 0.3, 1])
    draws = (2 * torch.rand(50, 7, generator=seeded(), dtype=torch.float64).numpy() - 1) * reach
    for (angle, down, right, shear, rows, columns, side), found in zip(
        draws, settings.maps(50, 10, 16, seeded()).numpy(), strict=True
    ):
        angle, shear = math.radians(angle), math.radians(shear)
        rotate = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        shift = np.array([[1, 0, down], [0, 1, right], [0, 0, 1]])
        slant = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
        zoom = np.diag([1 + rows, 1 + columns, 1])
        flip = np.diag([1, -1 if side < 0 else 1, 1])
        assert np.allclose(found, (rotate @ shift @ slant @ zoom @ flip)[:2], atol=1e-12)


def test_the_parameters_fill_the_ranges_that_the_paper_states():
    default = augmentation("default")
    assert isinstance(default, KerasAffine)
    assert (default.rotation, default.shift, default.shear, default.zoom, default.flip) == (20, 0.2, 0.1, 0.1, True)
    linear, offset = default.maps(20_000, 50, 100, seeded()).split((2, 1), dim=2)
    # Rotation is the angle of the first column (rows), which zoom scales and shear leaves alone.
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    zoom_rows = linear[:, :, 0].norm(dim=1)
    area = torch.linalg.det(linear)
    turn_back = torch.stack((angle.deg2rad().cos(), angle.deg2rad().sin()), dim=1)
    down = (turn_back * offset[:, :, 0]).sum(1)
    for values, low, high in ((angle, -20, 20), (zoom_rows, 0.9, 1.1), (down, -10, 10)):
        span = high - low
        assert low - 1e-9 <= values.min() < low + 0.001 * span
        assert high - 0.001 * span < values.max() <= high + 1e-9
        assert abs(float(values.mean()) - (low + high) / 2) < 0.02 * span
    assert 0.48 < (area < 0).double().mean() < 0.52  # mirrored
    assert 0.8 < area.abs().min() < 0.83
    assert 1.18 < area.abs().max() < 1.22


def test_crops_move_by_whole_pixels_up_to_an_eighth_and_mirror_half():
    images = pictures(1, height=32, width=32)
    found = augmentation("crop")(images.expand(4_000, -1, -1, -1), seeded())
    expected = {}
    for down in range(-4, 5):
        for right in range(-4, 5):
            rows, columns = (torch.arange(32) + down).clamp(0, 31), (torch.arange(32) + right).clamp(0, 31)
            moved = images[0, :, rows][:, :, columns]
            expected |= {(down, right, False): moved, (down, right, True): moved.flip(2)}
    # The middle pixels tell all of them apart.
    distances = torch.cdist(
        found[:, :, 14:18, 14:18].flatten(1), torch.stack([*expected.values()])[..., 14:18, 14:18].flatten(1)
    )
    nearest = distances.argmin(1)
    assert torch.allclose(found, torch.stack([*expected.values()])[nearest], atol=1e-4)
    assert nearest.unique().numel() == 2 * 9 * 9
    mirrored = torch.tensor([side for _, _, side in expected])[nearest]
    assert 0.47 < mirrored.double().mean() < 0.53


def test_no_range_no_change():
    images = pictures()
    assert torch.allclose(KerasAffine()(images, seeded()), images, atol=1e-5)
    assert torch.allclose(FlipZoomBrightness()(images, seeded()), images, atol=1e-5)


@pytest.mark.parametrize("flipping", [KerasAffine(flip=True), FlipZoomBrightness(flip=True)])
def test_a_flip_mirrors_left_to_right_half_of_the_images(flipping):
    images = pictures(400)
    found = flipping(images, seeded())
    same = (found - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (found - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


# ------------------------------------------------------------------------------------------- the paper's "tfds"


def test_the_zoom_shows_a_box_inside_the_image():
    """On an image whose pixels are their own coordinates, the corners tell the box."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 33), torch.linspace(0, 1, 65), indexing="ij")
    images = torch.stack((rows, columns)).expand(5_000, 2, 33, 65)
    found = FlipZoomBrightness(zoom=0.25)(images, seeded())
    top, left = found[:, 0, 0, 0], found[:, 1, 0, 0]
    height, width = found[:, 0, -1, -1] - top, found[:, 1, -1, -1] - left
    assert torch.allclose(height, width, atol=1e-5)
    assert 0.75 - 1e-5 <= height.min() < 0.76
    assert 0.99 < height.max() <= 1
    position = (top / (1 - height))[height < 0.95]  # uniform over what the box leaves free
    assert position.min() < 0.01
    assert position.max() > 0.99
    assert abs(float(position.mean()) - 0.5) < 0.02


def test_the_brightness_is_one_constant_an_image_clipped_to_the_unit_interval():
    images = torch.full((5_000, 3, 2, 2), 0.5)
    images[:, :, 0, 0] = 0.95
    found = FlipZoomBrightness(brightness=0.2)(images, seeded())
    added = found[:, 0, 1, 1] - 0.5
    assert -0.2 - 1e-6 <= added.min() < -0.199
    assert 0.199 < added.max() <= 0.2 + 1e-6
    assert torch.allclose(found[:, :, 1, 1] - 0.5, added[:, None].expand(-1, 3))
    assert torch.allclose(found[:, 0, 0, 0], (0.95 + added).clamp(0, 1), atol=1e-5)


def test_tfds_is_what_the_paper_states():
    tfds = augmentation("tfds")
    assert isinstance(tfds, FlipZoomBrightness)
    assert (tfds.flip, tfds.zoom, tfds.brightness) == (True, 0.25, 0.2)


def test_light_moves_the_digits_a_little_and_mirrors_none():
    light = augmentation("light")
    assert isinstance(light, KerasAffine)
    assert not light.flip
    maps = light.maps(2_000, 28, 28, seeded())
    corners = torch.tensor([[14.0, 14.0, 1.0], [-14.0, 14.0, 1.0]], dtype=torch.float64)
    moved = (maps @ corners.T - corners[:, :2].T).norm(dim=1)
    assert 1.5 < moved.max() < 3  # pixels, where an image is moved most


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seeds_repeat_and_shapes_and_ranges_stay(name):
    augment, images = augmentation(name), pictures(20)
    images[0], images[1] = 0, 1
    kept = images.clone()
    first, again, other = augment(images, seeded(1)), augment(images, seeded(1)), augment(images, seeded(2))
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert torch.equal(first, again)
    assert name == "none" or not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(images, kept)


def test_none_is_the_batch_itself():
    images = pictures()
    assert augmentation("none")(images, seeded()) is images


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(ConfigError, match="unknown augmentation 'defualt'; did you mean 'default'"):
        augmentation("defualt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_gpu_augments_alike(name):
    images = pictures(20)
    on_gpu = augmentation(name)(images.cuda(), seeded())
    assert on_gpu.is_cuda
    assert torch.allclose(on_gpu.cpu(), augmentation(name)(images, seeded()), atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_generator_is_refused():
    with pytest.raises(ConfigError, match="CPU generator"):
        augmentation("default")(pictures().cuda(), torch.Generator("cuda"))
