"""gloro-fast report: one page with everything in it, and nothing in it that a file could smuggle in."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from gloro_fast.cli.opened import load_run_data
from gloro_fast.data import Split
from gloro_fast.errors import DataError
from gloro_fast.evaluate import evaluate
from gloro_fast.report import Contents, html_page
from gloro_fast.train.observers.metrics_csv import read_metrics
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.trained_net import load_net

VOID = {"meta", "img", "br", "link", "use"}
HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """What a page consists of; fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open[-1:]:
            self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def contents(trained) -> Contents:
    net, config = load_net(trained)
    data = load_run_data(config, None, None)
    net.freeze()
    split = dataclasses.replace(data.test, images=data.test.images[:200], labels=data.test.labels[:200])
    folder = RunFolder(trained)
    names = data.class_names
    return Contents.of(folder, config, net, evaluate(net, split), split, class_names=names, epsilon=0.1, data=data.name)


def test_the_command_writes_a_page_of_one_file(invoke, run):
    done = invoke("report", run, "--device", "cpu")
    assert done.exit_code == 0, done.output
    text = (run / "report.html").read_text(encoding="utf-8")
    assert done.stdout.endswith(f"page: {run / 'report.html'}\n")
    assert len(text.encode()) < 2**20
    page = Page(text)
    # Nothing is loaded from elsewhere, nor run.
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        address = attributes.get("src") or attributes.get("href") or attributes.get("xlink:href") or "#"
        assert address.startswith(("data:image/png;base64,", "#")), address
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    # Every picture says in words what it shows, and every id is there once.
    assert len(page.named("img")) > 12
    assert all(image["alt"] for image in page.named("img"))
    pictures = page.named("svg")
    assert len(pictures) == 3
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(picture["aria-labelledby"] in ids for picture in pictures)
    used = re.findall(r'(?:href="#|url\(#)([\w-]+)', text)
    assert used
    assert set(used) <= set(ids)


def test_numbers_name_their_method(contents):
    text = Page(html_page(contents)).text
    assert f"{contents.evaluation.vra(0.1):.2%} " in text
    assert "Lipschitz constant K, upper bound" in text
    assert "lower estimate" in text
    assert "is not covered" in text
    assert "for comparison with the paper" not in text
    found = dataclasses.replace(contents.evaluation, method="power (estimate)")
    text = Page(html_page(dataclasses.replace(contents, evaluation=found, kind="estimate", rows=[]))).text
    assert "Lipschitz constant K, estimate" in text
    assert "none is a certificate" in text
    assert "radius VRA (estimate)" in text


def test_words_from_files_are_text(contents):
    recipe = contents.config.recipe.override(name=HOSTILE)
    hostile = dataclasses.replace(
        contents,
        config=dataclasses.replace(contents.config, recipe=recipe),
        data=HOSTILE,
        data_note=HOSTILE,
        class_names=(HOSTILE,) * 10,
        result={**contents.result, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        layers=[dataclasses.replace(layer, name=HOSTILE) for layer in contents.layers],
        rows=[dataclasses.replace(row, phase=HOSTILE) for row in contents.rows],
    )
    page = Page(html_page(hostile))
    assert page.named("script") == []
    assert page.text.count(HOSTILE) > 20
    assert any(HOSTILE in image["alt"] for image in page.named("img"))


def test_confusion_and_images_are_those_of_the_evaluation(contents):
    found, matrix = contents.evaluation, contents.confusion()
    certified = found.radius > 0.1
    assert int(matrix.sum()) == int(certified.sum()) > 0
    assert int(matrix.diag().sum()) == int((certified & found.correct).sum())
    for i, j in ((3, 3), (8, 1)):
        assert int(matrix[i, j]) == int((certified & (found.labels == i) & (found.prediction == j)).sum())
    least = contents.least_certain()
    assert found.radius[least].tolist() == found.radius[certified].sort().values[: len(least)].tolist()
    wrong = contents.most_wrong()
    assert not found.correct[wrong].any()
    assert (
        contents.margins()[wrong].tolist()
        == contents.margins()[~found.correct].sort(descending=True).values[:12].tolist()
    )


def test_of_many_classes_only_the_pairs_mixed_up_most_are_listed(contents):
    many = tuple(f"class {i}" for i in range(300))
    labels = torch.arange(200)
    found = dataclasses.replace(
        contents.evaluation, labels=labels, prediction=(labels // 100) * 250, radius=torch.ones(200).double()
    )
    text = Page(html_page(dataclasses.replace(contents, class_names=many, evaluation=found, rows=[]))).text
    assert "Pairs mixed up most" in text
    assert "class 1 class 0 1" in text


def test_a_large_split_stays_below_a_mebibyte(contents):
    count, generator = 10_000, torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=generator)
    found = dataclasses.replace(
        contents.evaluation,
        labels=labels,
        prediction=torch.where(torch.rand(count, generator=generator) < 0.1, (labels + 1) % 10, labels),
        radius=torch.rand(count, generator=generator).double(),
        logits=torch.randn(count, 10, generator=generator),
    )
    # Noise, which no PNG makes smaller.
    images = torch.randint(256, (1, 3, 96, 96), generator=generator, dtype=torch.uint8).expand(count, -1, -1, -1)
    large = dataclasses.replace(contents, evaluation=found, split=Split(images, labels), rows=contents.rows[:1])
    assert len(html_page(large).encode()) < 2**20


def test_nothing_certified_nothing_wrong_and_no_metrics(contents):
    found = contents.evaluation
    none = dataclasses.replace(found, radius=torch.zeros_like(found.radius), prediction=found.labels)
    text = Page(html_page(dataclasses.replace(contents, evaluation=none, rows=[], result={}))).text
    assert "None is certified." in text
    assert "None is wrong." in text
    assert "There are no metrics" in text


def test_metrics_read_back_as_they_were(trained, tmp_path):
    path = RunFolder(trained).metrics
    rows = read_metrics(path)
    assert [row.epoch for row in rows] == [1, 2]
    assert rows[0].validation_vra is None
    lines = path.read_text().splitlines()
    assert lines[1:] == [",".join("" if v is None else str(v) for v in row.to_dict().values()) for row in rows]
    assert read_metrics(tmp_path / "none.csv") == []
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:2], lines[2].replace(",", ";")]))
    with pytest.raises(DataError, match=r"row 2 of .*bad\.csv"):
        read_metrics(tmp_path / "bad.csv")


def test_what_is_no_finished_run_is_refused(refused, tmp_path, run):
    assert "there is no run folder" in refused("report", tmp_path / "nowhere")
    (run / "result.json").write_text("{")
    assert "result.json cannot be read" in refused("report", run, "--device", "cpu")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_draws_it_in_the_dark(contents, tmp_path):
    from PIL import Image

    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(html_page(contents), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--window-size=800,900", f"--screenshot={picture}"]
    command += ["--blink-settings=preferredColorScheme=0"]
    try:
        subprocess.run([*command, page.as_uri()], capture_output=True, timeout=60, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"chromium does not start here: {error}")
    with Image.open(picture) as drawn:
        colours = {colour: count for count, colour in drawn.convert("RGB").getcolors(1 << 24)}
    assert max(colours, key=colours.get) == (21, 24, 28)
    assert colours[230, 230, 230] > 200
