"""The results that the README shows are those of the reports, and the reports do not contradict themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gloro_fast.recipes.paper import ROWS

ROOT = Path(__file__).parents[1]
# "all" is what `reproduce --all` writes, a table of the others.
REPORTS = {
    path.parent.name: json.loads(path.read_text())
    for path in sorted((ROOT / "reports").glob("*/report.json"))
    if path.parent.name != "all"
}
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="the checkout is not here")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def pgd(report) -> float | None:
    return next((trial["accuracy"] for trial in report.get("attacks", {}).get("trials", [])), None)


def test_there_are_reports():
    assert "mnist-2c2f" in REPORTS


@pytest.mark.parametrize("name", REPORTS)
def test_no_certificate_broke_and_accuracies_are_in_order(name):
    report = REPORTS[name]
    assert [trial["broken"] for trial in report.get("attacks", {}).get("trials", [])] in ([], [0])
    assert 0 <= report["vra"]["vra"] <= report["vra"]["clean_accuracy"] <= 1
    if "attacks" in report:
        attacks = report["attacks"]
        assert attacks["vra"] <= pgd(report) <= attacks["clean_accuracy"]
    if "tightness" in report:
        assert report["tightness"]["local_lower"] <= report["tightness"]["global_lower"] <= report["tightness"]["upper"]


@pytest.mark.parametrize("name", REPORTS)
def test_the_readme_has_its_row(name):
    report = REPORTS[name]
    rows = re.findall(rf"^\| \[{re.escape(name)}\]\(reports/{re.escape(name)}/README\.md\) \|(.*)\|$", readme(), re.M)
    assert len(rows) == 1
    cells = [cell.strip().strip("*") for cell in rows[0].split("|")]
    vra = report["vra"]
    assert cells[1:5] == [
        str(report["recipe"]["epochs"]),
        percent(vra["clean_accuracy"]),
        percent(pgd(report)),
        percent(vra["vra"]),
    ]
    paper = ROWS.get(report["recipe"]["name"])
    theirs = "-" if paper is None else ", ".join(
        "-" if value is None else f"{value:.1f}" for value in (paper.clean, paper.pgd, paper.vra)
    )  # fmt: skip
    assert cells[5] == theirs


def test_the_readme_has_no_other_rows():
    assert set(re.findall(r"^\| \[[^]]+\]\(reports/([^/]+)/", readme(), re.M)) == set(REPORTS)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")
