"""Nets that are saved, pushed and loaded: the same bits, the same certificates; spoilt files are refused."""

import json
import re
import shutil
import sys

import pytest
import torch
from small_nets import SHAPE, batch, glorot_net
from torch import nn

from gloro_fast import GloRoNet, architectures
from gloro_fast import nn as layers
from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import tensor_file
from gloro_fast.net import layer_list

RESULTS = {"vra": 0.625, "epsilon": 0.1, "method": "tight", "data": "noise", "command": "gloro-fast train"}
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return glorot_net().eval()


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "net"
    net.save_pretrained(folder, RESULTS)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def same(one, other, images):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    a, b = one.certify(images), other.certify(images)
    assert torch.equal(a.radius, b.radius)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.certified, b.certified)
    assert (a.epsilon, a.lipschitz, a.method) == (b.epsilon, b.lipschitz, b.method)


def test_a_loaded_net_has_the_same_bits_and_certificates(net, saved):
    state = torch.get_rng_state()
    loaded = GloRoNet.from_pretrained(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.training
    same(net, loaded, batch()[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_margins_and_method_come_back(tmp_path, dtype):
    module = architectures.build("LiResNet-1x4", input_shape=SHAPE, num_classes=3).to(dtype)
    net = GloRoNet(module, 0.25, SHAPE, power_iterations=2, margins="whole").eval().freeze("tight")
    net.save_pretrained(tmp_path)
    loaded = GloRoNet.from_pretrained(tmp_path)
    assert (loaded.power_iterations, loaded.margin_form, loaded.frozen) == (2, net.margin_form, True)
    same(net, loaded, batch(4)[0].to(dtype))


def test_a_module_of_ones_own_is_asked_for(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
            self.a.weight.data.mul_(2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)) + x)

    net = GloRoNet(Own(), 0.1, (6,)).eval()
    net.save_pretrained(tmp_path)
    assert "module=classifier" in (tmp_path / "README.md").read_text()
    with pytest.raises(ConfigError, match="pass module=, a classifier of the same layers"):
        GloRoNet.from_pretrained(tmp_path)
    same(net, GloRoNet.from_pretrained(tmp_path, module=Own()), torch.rand(5, 6))
    with pytest.raises(CheckpointError, match=r"does not fit its architecture: it lacks module\.weight"):
        GloRoNet.from_pretrained(tmp_path, module=nn.Linear(6, 3))


def test_tied_layers_are_no_list_of_layers(tmp_path):
    layer = nn.Linear(4, 4)
    net = GloRoNet(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2)), 0.1, (4,)).eval()
    net.save_pretrained(tmp_path)
    other = nn.Linear(4, 4)
    module = nn.Sequential(other, nn.ReLU(), other, nn.ReLU(), nn.Linear(4, 2))
    same(net, GloRoNet.from_pretrained(tmp_path, module=module), torch.rand(3, 4))
    with pytest.raises(ConfigError, match="module="):
        GloRoNet.from_pretrained(tmp_path)


def test_the_card_has_the_figures_and_the_hash(saved):
    card = (saved / "README.md").read_text()
    config = json.loads((saved / "config.json").read_text())
    assert config["results"] == RESULTS
    for text in ("| 62.50% |", "| tight |", "| noise |", "`gloro-fast train`", config["sha256"], "at most 0.1"):
        assert text in card
    assert card.startswith("---\nlibrary_name: gloro-fast\npipeline_tag: image-classification\n")


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ({"vra": 0.5, "epsilon": 0.1, "data": "noise"}, "a vra but no method"),
        ({"loss": float("nan")}, "cannot be written as JSON"),
        ({"net": nn.ReLU()}, "cannot be written as JSON"),
    ],
)
def test_figures_that_say_nothing_are_refused(net, tmp_path, results, reason):
    with pytest.raises(ConfigError, match=reason):
        net.save_pretrained(tmp_path / "net", results)
    assert not (tmp_path / "net").exists()


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


class TestSpoiltFiles:
    def refused(self, folder, reason):
        with pytest.raises(CheckpointError, match=reason) as error:
            GloRoNet.from_pretrained(folder)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("place", [-1, -5000])
    def test_a_bit_of_the_weights(self, copied, place):
        path = copied / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        self.refused(copied, "do not match their digest")

    def test_another_nets_weights(self, net, copied, tmp_path):
        torch.manual_seed(1)
        glorot_net().eval().save_pretrained(tmp_path / "other", RESULTS)
        shutil.copy(tmp_path / "other" / "model.safetensors", copied)
        self.refused(copied, r"is not the file of config\.json")

    @pytest.mark.parametrize("kept", [0, 5, 500, -1])
    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_truncated(self, copied, name, kept):
        content = (copied / name).read_bytes()
        # The last byte of config.json ends its line.
        (copied / name).write_bytes(content[: kept if name == "model.safetensors" or kept >= 0 else -2])
        self.refused(copied, "truncated or damaged|missing or damaged")

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_missing(self, copied, name):
        (copied / name).unlink()
        self.refused(copied, "there is no file|is missing or damaged")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("epsilon", 0.05), ("results", {**RESULTS, "vra": 0.99}), ("num_classes", 4), ("frozen", "power"),
            ("margins", "whole"), ("input_shape", [1, 4, 4]), ("extra", 1), ("architecture", None),
        ],
    )  # fmt: skip
    def test_an_entry_of_the_configuration(self, copied, key, value):
        edit(copied, lambda config: config.update({key: value}))
        self.refused(copied, f"was edited: '{key}'")

    def test_an_entry_gone(self, copied):
        edit(copied, lambda config: config.pop("margins"))
        self.refused(copied, "was edited: 'margins'")

    def test_no_configuration_of_ours(self, copied):
        (copied / "config.json").write_text('{"model_type": "bert"}')
        self.refused(copied, "has no sha256")

    def test_a_run_of_ours(self, copied, net):
        tensor_file.write(copied / "model.safetensors", "model", net.state_dict(), {})
        self.refused(copied, "holds a? ?gloro_fast model, not a gloro_fast pretrained net")


def forged(folder, net, change):
    """Write files that belong together, with an architecture of somebody else's making."""
    architecture = layer_list.describe(net.module)
    change(architecture)
    description, layer_list.describe = layer_list.describe, lambda module: architecture
    try:
        net.save_pretrained(folder)
    finally:
        layer_list.describe = description


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"layer": "torch.nn.Linear", "in_features": 10**7, "out_features": 10**7}, "another shape"),
        ({"layer": "torch.nn.Linear", "in_features": 100, "out_features": 5, "bias": False}, "too much"),
        ({"layer": "os.system", "command": "true"}, r"there is no layer os\.system"),
        ({"layer": "torch.nn.init.orthogonal_", "tensor": 1}, "there is no layer"),
        ({"layer": "torch.nn.Parameter"}, "there is no layer"),
        ({"layer": "torch.nn.Linear", "units": 5}, "cannot be made of"),
        ({"layer": "torch.nn.Linear", "in_features": -1, "out_features": 5}, "cannot be made of"),
        (["torch.nn.Linear"], "give its name and arguments"),
    ],
)
def test_an_architecture_is_not_believed(net, tmp_path, layer, reason):
    forged(tmp_path, net, lambda found: found.__setitem__(-1, layer))
    with pytest.raises((CheckpointError, ConfigError), match=reason):
        GloRoNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 4, 3, padding="same"), nn.ConvTranspose2d(2, 4, 3, 2, output_padding=1), nn.LeakyReLU(0.3),
        nn.BatchNorm2d(4, eps=1e-3), nn.Unflatten(1, (2, 2)), nn.MaxPool2d(3, 2), nn.PixelUnshuffle(2),
        nn.Linear(3, 4, bias=False), layers.Householder(4), layers.GroupSort(2), layers.MinMax(inplace=True),
        layers.Scale(1 / 3), layers.Normalize([0.1, 0.2], [0.3, 0.4]), layers.ResidualConv2d(4, 5, bias=False),
        layers.Conv2d(2, 4, 4, 2, padding="same"), layers.Conv2d(2, 4, 3, padding=1, groups=2),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_layers_are_described_and_built(layer):
    description = json.loads(json.dumps(layer_list.describe(nn.Sequential(layer))))
    (built,) = layer_list.build(description)
    assert type(built) is type(layer)
    assert repr(built) == repr(layer)
    assert layer_list.describe(nn.Sequential(built)) == description
    if isinstance(layer, layers.Scale):
        assert built.factor == layer.factor


def test_what_cannot_be_described():
    class Own(nn.Linear):
        pass

    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    for layer in (Own(3, 3), normed, nn.Sequential(nn.ReLU()), nn.ModuleList()):
        assert layer_list.describe(nn.Sequential(layer)) is None
    assert layer_list.describe(nn.Linear(3, 3)) is None


class TestHub:
    """The hub itself is out of reach: its client's calls are recorded, and files come from a folder."""

    @pytest.fixture
    def hub(self):
        return pytest.importorskip("huggingface_hub", reason="install gloro-fast[hub]")

    def test_push_uploads_the_folder(self, hub, net, tmp_path, monkeypatch):
        calls = []

        class Api:
            def __init__(self, token=None):
                calls.append(token)

            def create_repo(self, repo_id, private, exist_ok):
                calls.append((repo_id, private, exist_ok))
                return type("Url", (), {"repo_id": repo_id})

            def upload_folder(self, *, folder_path, repo_id, revision, **_):
                calls.append((repo_id, revision))
                shutil.copytree(folder_path, tmp_path / "pushed")
                return f"https://hub/{repo_id}/commit/1"

        monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
        address = net.push_to_hub("me/net", RESULTS, private=True, branch="v1", token="secret")
        assert address == "https://hub/me/net/commit/1"
        assert calls == ["secret", ("me/net", True, True), ("me/net", "v1")]
        assert sorted(path.name for path in (tmp_path / "pushed").iterdir()) == FILES
        same(net, GloRoNet.from_pretrained(tmp_path / "pushed"), batch()[0])
        assert "62.50%" in (tmp_path / "pushed" / "README.md").read_text()

        with pytest.raises(ConfigError, match="no method"):
            net.push_to_hub("me/other", {"vra": 1.0, "epsilon": 1.0})
        assert len(calls) == 3

    def test_a_repository_is_downloaded(self, hub, net, saved, monkeypatch):
        asked = []

        def download(repo_id, filename, **options):
            asked.append((repo_id, filename, options["revision"]))
            return str(saved / filename)

        monkeypatch.setattr(hub, "hf_hub_download", download)
        same(net, GloRoNet.from_pretrained("me/net", revision="abc"), batch()[0])
        assert asked == [("me/net", "config.json", "abc"), ("me/net", "model.safetensors", "abc")]

    @pytest.mark.usefixtures("hub")
    def test_what_is_nowhere(self, tmp_path):
        for name in ("me/net", "not a name!"):
            with pytest.raises(CheckpointError, match=r"and the hub does not give its config\.json") as error:
                GloRoNet.from_pretrained(name, local_files_only=True, cache_dir=tmp_path)
            assert "\n" not in str(error.value)
        for name in (tmp_path / "lost", "./lost", "a/b/c"):
            with pytest.raises(CheckpointError, match=re.escape(f"there is no folder {name};")):
                GloRoNet.from_pretrained(name)

    def test_without_the_client(self, net, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        for call in (lambda: net.push_to_hub("me/net"), lambda: GloRoNet.from_pretrained("me/net")):
            with pytest.raises(ConfigError, match=re.escape("pip install 'gloro-fast[hub]'")):
                call()
