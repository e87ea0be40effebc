"""The documentation fits the sources: pages of public names, the picture of the rooms, the files that pages name."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from gloro_fast import _version

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONTRIBUTING, ARCHITECTURE = ROOT / "CONTRIBUTING.md", DOCS / "architecture.md"


@pytest.fixture(scope="module")
def pages() -> SimpleNamespace:
    pytest.importorskip("mkdocs", reason="the site is built by MkDocs: install gloro-fast[docs]")
    return SimpleNamespace(**runpy.run_path(str(DOCS / "pages.py")))


def test_every_name_in_all_is_public_and_documented(pages: SimpleNamespace) -> None:
    loaded = pages.load(ROOT)
    found = pages.public_names(loaded)
    for init in [ROOT / "gloro_fast" / "__init__.py", *sorted((ROOT / "gloro_fast").glob("*/__init__.py"))]:
        names = re.search(r"^__all__ = \[(.*?)\]", init.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        if names:
            module = ".".join(init.parent.relative_to(ROOT).parts)
            assert found[module] == re.findall(r'"(\w+)"', names[1]), module
    assert {f"gloro_fast.{name}" for name in pages.MODULES} <= found.keys()
    assert [f"{m}.{n}" for m, names in found.items() for n in names if not pages.summary(loaded, f"{m}.{n}")] == []


def test_names_without_a_docstring_are_noticed(pages: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "gloro_fast" / "ops").mkdir(parents=True)
    (tmp_path / "gloro_fast" / "__init__.py").write_text('__all__ = ["lost"]\n')
    (tmp_path / "gloro_fast" / "losses.py").write_text(
        'import math\nclass Loss:\n    """A loss."""\nclass Bare:\n    pass\ndef _own(): ...\n'
    )
    (tmp_path / "gloro_fast" / "ops" / "__init__.py").write_text(
        'from gloro_fast.losses import Loss\n__all__ = ["Loss"]\n'
    )
    loaded = pages.load(tmp_path)
    assert pages.public_names(loaded) == {
        "gloro_fast": ["lost"], "gloro_fast.losses": ["Loss", "Bare"], "gloro_fast.ops": ["Loss"]
    }  # fmt: skip
    assert pages.summary(loaded, "gloro_fast.ops.Loss") == "A loss."
    assert pages.summary(loaded, "gloro_fast.losses.Bare") == pages.summary(loaded, "gloro_fast.lost") == ""


def test_what_sphinx_would_show_becomes_markdown(pages: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "gloro_fast.py").write_text(
        'class A:\n    """See :func:`~a.b`, ``c``::\n\n        code\n\n    The end.\n    """\n'
    )
    assert pages.load(tmp_path)["A"].docstring.value == "See `a.b`, ``c``:\n\n    code\n\nThe end."


def test_the_picture_shows_the_rooms_as_they_are() -> None:
    drawn = runpy.run_path(str(DOCS / "rooms.py"))["picture"]()
    assert (DOCS / "rooms.svg").read_text(encoding="utf-8") == drawn, "run python docs/rooms.py"


def test_the_ways_are_those_of_the_picture() -> None:
    ways = runpy.run_path(str(DOCS / "rooms.py"))["WAYS"]
    written = re.findall(r"^## The way of an? (\w+)\n(.*?)(?=^## |\Z)", ARCHITECTURE.read_text("utf-8"), re.M | re.S)
    found = {way: re.findall(r"^\d+\. `(\w+)`", text, flags=re.MULTILINE) for way, text in written}
    assert found == {way: list(rooms) for way, (_, rooms) in ways.items()}


@pytest.mark.parametrize("page", [CONTRIBUTING, ARCHITECTURE], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = set(re.findall(r"`([\w./]+\.(?:py|cpp|h|md|cff|json))`", page.read_text(encoding="utf-8")))
    files = [path.as_posix() for top in ("gloro_fast", "tests", "csrc", "docs") for path in (ROOT / top).rglob("*.*")]
    assert len(named) > 1
    for name in named:
        if not re.search(r"NAME|FAMILY|LAYER", name):
            assert (ROOT / name).exists() or any(path.endswith(f"/{name}") for path in files), name


def test_links_between_pages_are_there() -> None:
    for page in (CONTRIBUTING, *sorted(DOCS.glob("*.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_citation_names_this_version() -> None:
    (version,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version == _version.__version__


def test_a_room_that_nobody_described_is_noticed() -> None:
    drawing = runpy.run_path(str(DOCS / "rooms.py"))
    del drawing["INSIDE"]["ops"]
    with pytest.raises(AssertionError, match=r"describe these rooms in .*'ops'"):
        drawing["picture"]()
