"""The report on all rows: README.md, every row beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gloro_fast.recipes import get
from gloro_fast.recipes.paper import CERTIFICATION, OTHER_ROWS, OTHERS_CERTIFICATION, TIGHTNESS, PaperRow
from gloro_fast.reproduce.report import Cells, epochs_cell, number, percent, table
from gloro_fast.reproduce.rows import Row

_COLUMNS = (
    "row",
    "data, epsilon",
    "in the paper",
    "epochs",
    "clean %",
    "PGD %",
    "VRA %",
    "by",
    "by power (estimate) %",
    "s/epoch",
    "MB",
)
_LEGEND = (
    "Where a cell has two figures, the second is the paper's (GeForce RTX 3080); MB are megabytes in training for an "
    "image of a batch. VRA is by an upper bound with every rounding included, or by sampling where it says so; beside "
    "it VRA of the same net by power iteration, as the paper has it."
)


def summary(row: Row, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report on all rows says of one.

    Args:
        row: the row.
        report: the contents of its own report.json.
    """
    recipe, cost, trials = report["recipe"], report.get("cost"), report.get("attacks", {}).get("trials", [])
    return {
        "name": row.label,
        "recipe": row.recipe,
        "data": report["data"],
        "data_note": report["data_note"],
        "epsilon": recipe["epsilon"],
        "epochs": epochs_cell(report),
        "clean_accuracy": report["vra"]["clean_accuracy"],
        "pgd": next((trial["accuracy"] for trial in trials if trial["name"] == "PGD"), None),
        "vra": report["vra"]["vra"],
        "method": report["vra"]["method"],
        "vra_by_power": report["power"]["vra"] if "power" in report else None,
        "seconds_per_epoch": report["seconds_per_epoch"],
        "megabytes_per_instance": None if cost is None else cost["training"]["recipe"]["megabytes_per_instance"],
        "images": report["vra"]["images"],
        "attacked": report["attacks"]["images"] if trials else 0,
        "certified": report["attacks"]["certified"] if trials else 0,
        "broken": sum(trial["broken"] for trial in trials),
        "tightness": _bounds(report.get("tightness")),
        "certification": None if cost is None else {**cost["certification"], "architecture": recipe["architecture"]},
        "paper": None if row.paper is None else asdict(row.paper),
    }


def overview(content: Mapping[str, Any]) -> str:
    """Write README.md.

    Args:
        content: of report.json: the command, minutes (None without a limit), seconds used, ``rows`` as
            :func:`summary` gives them, and ``missing`` data, rows ``left_out`` and ``failed``, by name with the reason;
            quick, seed, machine, commit.
    """
    rows = content["rows"]
    parts = ["# Every row of the paper's figures that can be run here", f"    {content['command']}", _time(content)]
    if content["quick"]:
        parts.append("**A quick look: attacks, lower bounds and samples are cut short.**")
    notes = dict.fromkeys((row["data"], row["data_note"]) for row in rows if row["data_note"])
    parts += [f"**Data, {data}: {note}.**" for data, note in notes]
    if rows:
        parts += [table(_COLUMNS, [_cells(row) for row in rows]), _LEGEND, _attacks(rows)]
    for heading, key in (
        ("These rows failed", "failed"),
        ("No time was left for these rows", "left_out"),
        ("These data were not found, so that their rows are missing", "missing"),
    ):
        if content[key]:
            parts += [f"{heading}:", "\n".join(f"- {name}: {reason}" for name, reason in content[key].items())]
    bounds = [row for row in rows if row["tightness"]]
    if bounds:
        columns = ("Lipschitz constant (Figure 4c)", "upper", "global lower %", "pairs", "local lower %", "balls")
        parts += [table(columns, [_bound_cells(row) for row in bounds]), _BOUNDS_LEGEND]
    parts += ["Certifying a test split (Figure 4b), the bound being there:", _certification(rows)]
    parts += ["What stays the paper's figure:", _others()]
    facts = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    parts.append(f"Commit {content['commit']}, seed {content['seed']}. Machine: {facts}.")
    return "\n\n".join(parts) + "\n"


_BOUNDS_LEGEND = (
    "Shares of the upper bound; the second figure is the paper's. Lower bounds only grow with steps and pairs."
)


def _time(content: Mapping[str, Any]) -> str:
    used = f"{content['seconds'] / 60:.1f} minutes were used"
    if content["minutes"] is None:
        return f"All epochs of the recipes; {used}."
    return (
        f"Epochs, attacks and lower bounds were cut so that all fits into {content['minutes']:g} minutes; {used}. What "
        "was trained for fewer epochs than the recipe has says so, and is worth less than the recipe."
    )


def _cells(row: Mapping[str, Any]) -> Cells:
    paper = PaperRow("", "") if row["paper"] is None else PaperRow(**row["paper"])
    where = "-" if row["paper"] is None else f"{paper.figure}, {paper.method}"
    mark = " (see the data's note)" if row["data_note"] else ""
    return (
        f"[{row['name']}](../{row['name']}/README.md){mark}",
        f"{row['data']}, {row['epsilon']:.4g}",
        where,
        _beside(row["epochs"], number(paper.epochs)),
        _beside(percent(row["clean_accuracy"]), _tenth(paper.clean)),
        _beside(percent(row["pgd"]) + _of_fewer(row), _tenth(paper.pgd)),
        _beside(percent(row["vra"]), _tenth(paper.vra)),
        row["method"] + (f", {row['images']:,} images" if row["method"].startswith("smoothing") else ""),
        percent(row["vra_by_power"]),
        _beside(f"{row['seconds_per_epoch']:.3g}", number(paper.seconds_per_epoch)),
        _beside(number(row["megabytes_per_instance"]), number(paper.megabytes)),
    )


def _of_fewer(row: Mapping[str, Any]) -> str:
    """Say of how many images an accuracy under attack is, if not of all."""
    return f" ({row['attacked']:,} images)" if 0 < row["attacked"] < row["images"] else ""


def _attacks(rows: list[Mapping[str, Any]]) -> str:
    attacked, certified, broken = (sum(row[name] for row in rows) for name in ("attacked", "certified", "broken"))
    return f"Attacked, all rows together: {attacked:,} images, {certified:,} of them certified; broken: {broken:,}."


def _bounds(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    names = ("upper", "global_lower", "global_ratio", "local_lower", "local_ratio", "global_steps", "local_steps")
    return {**{name: found[name] for name in names}, "pairs": len(found["global_slopes"])}


def _bound_cells(row: Mapping[str, Any]) -> Cells:
    found, paper = row["tightness"], None
    if row["paper"] is not None and row["paper"]["method"].startswith("GloRo"):
        paper = TIGHTNESS.get(get(row["recipe"]).data)
    local = "-" if paper is None else " to ".join(f"{100 * ratio:.0f}" for ratio in paper.local_ratio)
    return (
        row["name"],
        f"{found['upper']:.4g}",
        _beside(f"{100 * found['global_ratio']:.1f}", "-" if paper is None else f"{100 * paper.global_ratio:.0f}"),
        f"{found['pairs']}, {found['global_steps']:,} steps",
        _beside(f"{100 * found['local_ratio']:.1f}", local),
        f"{found['pairs']}, {found['local_steps']:,} steps",
    )


def _certification(rows: list[Mapping[str, Any]]) -> str:
    own = [
        (
            f"{row['name']} ({found['architecture']}), {found['images']:,} images",
            f"{found['seconds']:.3g}",
            f"{found['megabytes_per_instance']:.3g}",
            f"{found['bound_seconds']:.3g}",
        )
        for row in rows
        if (found := row["certification"])
    ]
    theirs = {"GloRo": CERTIFICATION, **OTHERS_CERTIFICATION}
    paper = [
        (f"paper, {method}: 6C2F, CIFAR-10, 10,000 images", number(cost.seconds), number(cost.megabytes), "-")
        for method, cost in theirs.items()
    ]
    sampling = ("paper, RS: the same", "over ten hours", "-", "-")
    return table(("", "s", "MB for an image of a batch", "the bound, once, s"), [*own, *paper, sampling])


def _others() -> str:
    columns = ("data", "in the paper", "clean %", "PGD %", "VRA %", "s/epoch", "epochs", "MB", "why it is not run")
    return table(
        columns,
        [
            (
                other.data,
                f"{other.row.figure}, {other.row.method}",
                *(_tenth(value) for value in (other.row.clean, other.row.pgd, other.row.vra)),
                *(number(value) for value in (other.row.seconds_per_epoch, other.row.epochs, other.row.megabytes)),
                other.why,
            )
            for other in OTHER_ROWS
        ],
    )


def _beside(own: str, paper: str) -> str:
    return own if paper == "-" else f"{own} / {paper}"


def _tenth(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
