"""Keras weights: the imported net against the same net by hand, and files that cannot be imported."""

import io
import json
import sys
import tarfile

import numpy as np
import pytest
import torch
from keras_files import by_hand, model_config, random_weights, write_weights

from gloro_fast import GloRoNet
from gloro_fast.errors import CheckpointError, ConfigError, GloroFastError
from gloro_fast.models.keras_weights import load_keras

h5py = pytest.importorskip("h5py", reason="Keras files need h5py: install gloro-fast[keras]")

# Sides that differ, and that strides do not divide.
SHAPE, CLASSES = (3, 9, 6), 5


def save_model(path, layers, activation="minmax", shape=SHAPE, **changes):
    """What model.save("f.h5") writes."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.6.0"
        file.attrs["model_config"] = model_config(layers, shape, activation, **changes)
        write_weights(file.create_group("model_weights"), layers)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.h5"


def images(shape=SHAPE):
    channels, height, width = shape
    return np.random.default_rng(1).uniform(size=(4, height, width, channels)).astype(np.float32)


def assert_same_net(net, layers, activation):
    x = images(net.input_shape)
    found = net.module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(found, by_hand(layers, x, activation), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["minmax", "relu"])
@pytest.mark.parametrize("architecture", ["2C2F", "4C3F", "6C2F", "8C2F-print"])
def test_the_imported_net_is_the_net_by_hand(path, architecture, activation):
    layers = random_weights(architecture, SHAPE, CLASSES)
    net = load_keras(save_model(path, layers, activation), architecture)
    assert (net.activation, net.input_shape, net.num_classes) == (activation, SHAPE, CLASSES)
    assert_same_net(net, layers, activation)
    GloRoNet(net.module, 0.1, SHAPE)


def test_importing_leaves_random_numbers_alone(path):
    save_model(path, random_weights("2C2F", SHAPE, CLASSES))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_keras(path, "2C2F")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("chunks", [False, True])
def test_weights_alone_need_the_shape_of_the_images(path, chunks):
    layers = random_weights("6C2F", SHAPE, CLASSES)
    with h5py.File(path, "w") as file:
        write_weights(file, layers, chunks=chunks)
    with pytest.raises(ConfigError, match="give the input shape"):
        load_keras(path, "6C2F")
    assert_same_net(load_keras(path, "6C2F", input_shape=SHAPE, activation="relu"), layers, "relu")
    assert load_keras(path, "6C2F", input_shape=SHAPE).activation == "minmax"


def test_an_archive_of_the_authors(path, tmp_path):
    layers = random_weights("2C2F", SHAPE, CLASSES)
    save_model(path, layers)
    archive = tmp_path / "net.gloronet"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(path, arcname="net/f.h5")
        settings = json.dumps({"epsilon": 0.25, "num_iterations": 5}).encode()
        member = tarfile.TarInfo("net/config.json")
        member.size = len(settings)
        tar.addfile(member, io.BytesIO(settings))
    net = load_keras(archive, "2C2F")
    assert net.epsilon == 0.25
    assert_same_net(net, layers, "minmax")


def test_a_layer_without_bias_gets_zeros(path):
    layers = random_weights("2C2F", SHAPE, CLASSES)
    with h5py.File(path, "w") as file:
        write_weights(file, layers, without_bias=("conv2d_1",))
    layers[1] = (layers[1][0], np.zeros_like(layers[1][1]), layers[1][2])
    assert_same_net(load_keras(path, "2C2F", input_shape=SHAPE), layers, "minmax")


def test_a_model_within_the_model(path):
    layers = random_weights("2C2F", SHAPE, CLASSES)
    with h5py.File(path, "w") as file:
        write_weights(file.create_group("all"), layers)
        inner = ("conv2d", "conv2d_1", "dense", "dense_1")
        names = [f"{layer}/{weight}:0" for layer in inner for weight in ("kernel", "bias")]
        file.attrs["layer_names"] = [b"model"]
        group = file.create_group("model")
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name in names:
            layer = name.split("/")[0]
            group[name] = file[f"all/{layer}/{name}"][()]
    assert_same_net(load_keras(path, "2C2F", input_shape=SHAPE), layers, "minmax")


class TestBadInput:
    """Each a single line that names the file."""

    def refused(self, path, match, error=CheckpointError, architecture="2C2F", **options):
        with pytest.raises(error, match=match) as caught:
            load_keras(path, architecture, **options)
        assert isinstance(caught.value, GloroFastError)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.fixture
    def layers(self):
        return random_weights("2C2F", SHAPE, CLASSES)

    def test_no_file(self, path):
        self.refused(path, "there is no file")

    @pytest.mark.parametrize("content", [b"", b"nothing", b"\x89HDF\r\n\x1a\n" + bytes(100)])
    def test_no_file_of_keras(self, path, content):
        path.write_bytes(content)
        assert str(path) in self.refused(path, "damaged or no file of Keras")

    def test_truncated(self, path, layers):
        save_model(path, layers)
        content = path.read_bytes()
        for share in (0.1, 0.5, 0.9):
            path.write_bytes(content[: int(len(content) * share)])
            self.refused(path, "damaged")

    def test_a_damaged_archive(self, path, tmp_path, layers):
        save_model(path, layers)
        archive = tmp_path / "net.gloronet"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(path, arcname="net/f.h5")
        archive.write_bytes(archive.read_bytes()[:-2000])
        self.refused(archive, "damaged")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(__file__, arcname="net/f.py")
        self.refused(archive, "archive without a .h5 file")

    def test_hdf5_of_something_else(self, path):
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(3)
        self.refused(path, "no layer_names")

    def test_another_architecture(self, path, layers):
        save_model(path, layers)
        self.refused(path, r"4 layers with weights \(conv2d, .*4C3F has 7", architecture="4C3F")
        self.refused(path, "did you mean '2C2F'", ConfigError, architecture="2C2")
        self.refused(path, "no architecture 'LiResNet-2x8'", ConfigError, architecture="LiResNet-2x8")

    def test_another_shape_of_a_kernel(self, path, layers):
        save_model(path, layers)
        self.refused(path, r"layer dense has a kernel \(192, 100\), 2C2F needs \(288, 100\)", input_shape=(3, 9, 9))
        self.refused(path, r"layer conv2d has a kernel \(4, 4, 3, 16\), 2C2F needs \(4, 4, 1", input_shape=(1, 9, 6))

    def test_a_missing_weight(self, path, layers):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            del file["model_weights/dense/dense/kernel:0"]
        self.refused(path, "damaged or no file of Keras")
        with h5py.File(path, "a") as file:
            file["model_weights/dense"].attrs["weight_names"] = [b"dense/bias:0"]
        self.refused(path, "layer dense has no kernel")

    def test_a_missing_layer(self, path, layers):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            del file["model_weights/conv2d_1"]
        self.refused(path, "damaged or no file of Keras")

    def test_a_layer_of_another_kind(self, path, layers):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            group = file["model_weights/conv2d_1"]
            group["conv2d_1/gamma:0"] = np.ones(32)
            group.attrs["weight_names"] = [b"conv2d_1/kernel:0", b"conv2d_1/bias:0", b"conv2d_1/gamma:0"]
        self.refused(path, "layer conv2d_1 has a gamma, which no layer of 2C2F has")

    @pytest.mark.parametrize(
        ("values", "match"), [(np.full(16, np.nan), "NaN or infinite"), (np.ones(16, dtype=int), "floats are needed")]
    )
    def test_values_that_are_none(self, path, layers, values, match):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            group = file["model_weights/conv2d"]
            del group["conv2d/bias:0"]
            group["conv2d/bias:0"] = values
        assert str(path) in self.refused(path, match)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"strides": [1, 1]}, r"conv2d has strides \[1, 1\], \[2, 2\] is needed"),
            ({"padding": "valid"}, "conv2d has padding valid, same is needed"),
            ({"dilation_rate": [2, 2]}, "dilation_rate"),
            ({"data_format": "channels_first"}, "conv2d is channels_first"),
        ],
    )
    def test_other_settings(self, path, layers, changes, match):
        save_model(path, layers, **changes)
        self.refused(path, match)

    def test_another_activation(self, path, layers):
        save_model(path, layers, "relu")
        self.refused(path, "its activation is relu, not minmax", activation="minmax")
        save_model(path, layers, "elu")
        self.refused(path, "its activations are elu; one of minmax, relu is needed")

    def test_two_activations(self, path, layers):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"]["activation"] = "relu"
            file.attrs["model_config"] = json.dumps(config)
        self.refused(path, "its activations are minmax, relu; one of")

    def test_a_layer_that_no_architecture_has(self, path, layers):
        save_model(path, layers)
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"].insert(2, {"class_name": "AveragePooling2D", "config": {"name": "pool"}})
            file.attrs["model_config"] = json.dumps(config)
        self.refused(path, "layer pool is a AveragePooling2D")

    def test_no_classifier(self, path):
        with h5py.File(path, "w") as file:
            write_weights(file, [])
        self.refused(path, "last layer is no dense layer", input_shape=SHAPE)

    def test_h5py_is_missing(self, path, layers, monkeypatch):
        save_model(path, layers)
        monkeypatch.setitem(sys.modules, "h5py", None)
        self.refused(path, r"pip install h5py", ConfigError)
