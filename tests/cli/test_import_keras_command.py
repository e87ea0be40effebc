import json

import numpy as np
import pytest
import torch
from keras_files import by_hand, model_config, random_weights, write_weights

from gloro_fast.data import load
from gloro_fast.train.trained_net import load_net

h5py = pytest.importorskip("h5py", reason="Keras files need h5py: install gloro-fast[keras]")


@pytest.fixture
def layers():
    return random_weights("2C2F", (1, 8, 8), 10)


@pytest.fixture
def file(tmp_path, layers):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = model_config(layers, (1, 8, 8), "relu")
        write_weights(file.create_group("model_weights"), layers)
    return path


def test_an_imported_net_can_be_certified(invoke, file, layers, tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    out = tmp_path / "run"
    result = invoke("import-keras", file, "--recipe", "digits", "--epsilon", "1/20", "--out", out)
    assert result.exit_code == 0, result.output
    net, config = load_net(out)
    assert (config.recipe.activation, net.epsilon, config.data_note) == ("relu", 0.05, "weights imported from f.h5")
    images = load("digits").test.images[:20].float() / 255
    logits = net(images)[:, :-1].detach().numpy()
    np.testing.assert_allclose(
        logits, by_hand(layers, images.permute(0, 2, 3, 1).numpy(), "relu"), rtol=1e-4, atol=1e-5
    )
    csv = tmp_path / "certificates.csv"
    assert invoke("certify", out, "--out", csv, "--device", "cpu").exit_code == 0
    assert len(csv.read_text().splitlines()) > 400
    assert len(json.loads((out / "result.json").read_text())["imported_sha256"]) == 64
    assert torch.equal(load_net(out)[0].module[0].weight, net.module[0].weight)


def test_what_cannot_be_imported_takes_one_line(refused, file, tmp_path):
    out = tmp_path / "run"
    assert "has 7; choose another" in refused("import-keras", file, "--recipe", "mnist-4c3f", "--out", out)
    assert "write channels,height,width" in refused(
        "import-keras", file, "--recipe", "digits", "--input-shape", "8x8", "--out", out
    )
    assert "no recipe 'digit'" in refused("import-keras", file, "--recipe", "digit", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "notes").write_text("mine")
    assert "exists; choose another --out" in refused("import-keras", file, "--recipe", "digits", "--out", out)
