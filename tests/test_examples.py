"""Every example runs, smaller than as it stands, and prints what it is there to show."""

import json
import re
import runpy
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
# What the examples need, and what is missing then.
NEEDS = {
    "sklearn": "the digits are in scikit-learn: install gloro-fast[demo]",
    "scipy": "install gloro-fast[audit]",
    "lightning": "install gloro-fast[examples]",
    "deel.torchlip": "install gloro-fast[examples]",
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "install gloro-fast[onnx]"),
}
TESTED = {
    "audit_certificate", "certify_torchlip", "convert_resnet", "graphed_step", "lightning_module", "onnx_radii",
    "register_rule", "smoothing", "train_by_hand",
}  # fmt: skip


@pytest.fixture
def printed(monkeypatch, capsys):
    def run(name, *arguments, needs=("sklearn",)):
        with warnings.catch_warnings():
            # Libraries that are older than this torch.
            warnings.simplefilter("ignore", FutureWarning)
            for module in needs:
                pytest.importorskip(module, reason=NEEDS[module])
            monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def percents(text):
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def test_all_are_tested_and_listed():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names >= TESTED
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    for path in EXAMPLES.glob("*.py"):
        started = rf"^    (python|torchrun --nproc-per-node 2) examples/{path.name}"
        assert re.search(started, path.read_text(encoding="utf-8"), re.MULTILINE), path.name


def test_train_by_hand(printed):
    out = printed("train_by_hand", "--epochs", 3)
    first, *_, last = [percents(line) for line in out.splitlines() if line.startswith("epoch")]
    assert last[0] > first[0]
    assert last[1] > first[1]
    assert "loaded again: the same certificates" in out


def test_a_loop_of_ones_own(printed):
    out = printed("graphed_step", "--epochs", 2)
    first, second = map(float, re.findall(r"loss ([\d.]+)", out))
    assert second < first
    assert percents(out)[-1] > 10


def test_convert_resnet(printed):
    out = printed("convert_resnet", "--epochs", 2)
    first, second = map(float, re.findall(r"loss ([\d.]+)", out))
    assert second < first
    assert "w_i the rows of head" in out
    assert re.search(r"blocks\.1\.conv2: [\d.]+", out)


def test_register_rule(printed):
    out = printed("register_rule", needs=())
    assert "refused: 1.pow() is a function whose Lipschitz constant is unknown" in out
    largest, bound = map(float, re.search(r"found ([\d.]+), bound ([\d.]+)", out).groups())
    assert 0.98 * bound < largest <= bound


def test_certify_torchlip(printed):
    out = printed("certify_torchlip", "--epochs", 3, needs=("sklearn", "deel.torchlip"))
    clean, promised, vra = percents(out)
    assert clean > 80
    assert 10 < vra < clean
    assert vra == pytest.approx(promised, abs=1)
    norms = [float(value) for value in re.findall(r"^  \d: ([\d.]+)", out, re.MULTILINE)]
    assert len(norms) == 5
    assert max(norms) < 1.001


def test_audit_certificate(printed):
    out = printed("audit_certificate", "--images", 10, needs=("sklearn", "scipy"))
    assert "audit: 0 differences" in out
    assert re.search(r"forged: layer 0: the bound [\d.]+ is not proven", out)


def test_smoothing(printed):
    out = printed("smoothing", "--images", 10, "--samples", 1000, needs=("sklearn", "scipy"))
    exact, smoothed, abstained = percents(out)
    assert exact > 50
    assert 50 < smoothed <= 100
    assert abstained < 50


def test_lightning_module(printed):
    out = printed("lightning_module", "--epochs", 2, needs=("sklearn", "lightning"))
    assert "epoch 1: VRA" in out
    assert "epoch 2: VRA" in out
    assert "resumed" in out
    first, second = percents(out)
    assert second > first


def test_the_notebook():
    """Its cells run one after the other as the page has them, but for fewer epochs."""
    pytest.importorskip("sklearn", reason=NEEDS["sklearn"])
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "strip the outputs"
    names = {}
    source = ["".join(cell["source"]) for cell in cells]
    assert sum("EPOCHS = 10" in text for text in source) == 1
    for number, text in enumerate(source):
        exec(compile(text.replace("EPOCHS = 10", "EPOCHS = 2"), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    plt.close("all")
    assert names["changed"].double().mean() > 0.9
    assert 0.2 < names["ratio"] < 1


def test_onnx_radii(printed):
    out = printed("onnx_radii", "--epochs", 2, needs=("sklearn", "onnx", "onnxscript", "onnxruntime"))
    theirs, ours = map(int, re.search(r"(\d+) of 500 by ONNX, (\d+) by us", out).groups())
    assert 0 < theirs <= ours
