"""The report on a run: README.md and report.json, the row beside the paper's row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gloro_fast.recipes.paper import CERTIFICATION, PaperRow, PaperTightness

Cells = tuple[str, ...]
_COST_NOTE = (
    "s/epoch in the first table is the median epoch of the run, with augmentation, checkpoints, pictures and whatever "
    "else the machine did; the steps here were timed alone, in turns with those of standard training."
)
_ROW = ("", "epochs", "clean %", "PGD %", "VRA %", "by", "s/epoch", "MB/instance")


def markdown(content: dict[str, Any], paper: PaperRow | None, paper_tightness: PaperTightness | None) -> str:
    """Write README.md.

    Args:
        content: of report.json: the name, fields of the recipe, the command that makes it again, data, pictures by file
            name, machine, commit, seed; ``vra`` (clean_accuracy, vra, method) and, where they were measured, ``power``,
            ``attacks``, ``tightness``, ``cost``, ``smoothing``.
        paper: the row to set beside; None where the paper has none.
        paper_tightness: its ratios for the data set, likewise.
    """
    recipe = content["recipe"]
    parts = [
        f"# {content['name']}: {recipe['architecture']}, {recipe['activation']}, {recipe['loss']}, "
        f"{content['data']}, epsilon {recipe['epsilon']:.6g}",
        *_notes(content),
        f"    {content['command']}",
        table(_ROW, _rows(content, paper)),
    ]
    if "attacks" in content:
        parts.append(_attack_text(content["attacks"]))
    if "smoothing" in content:
        parts.append(_smoothing_text(content["smoothing"]))
    if "tightness" in content:
        parts.append(_tightness_table(content["tightness"], paper_tightness))
    if "cost" in content:
        parts += [_cost_table(content["cost"], content["recipe"]), _COST_NOTE]
    parts += [f"![{caption}]({name})" for name, caption in content["pictures"].items()]
    facts = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    parts.append(f"Commit {content['commit']}, seed {content['seed']}. Machine: {facts}.")
    return "\n\n".join(parts) + "\n"


def _notes(content: dict[str, Any]) -> list[str]:
    notes = []
    if content["data_note"]:
        notes.append(f"**Data: {content['data_note']}.**")
    if content["quick"]:
        notes.append("**A quick look: attacks, lower bounds and samples are cut short.**")
    return notes


def _rows(content: dict[str, Any], paper: PaperRow | None) -> list[Cells]:
    cost = content.get("cost")
    pgd = next((t["accuracy"] for t in content.get("attacks", {}).get("trials", []) if t["name"] == "PGD"), None)
    megabytes = None if cost is None else cost["training"]["recipe"]["megabytes_per_instance"]
    own = content["vra"]
    rows: list[Cells] = [
        (
            "this run",
            epochs_cell(content),
            percent(own["clean_accuracy"]),
            percent(pgd),
            percent(own["vra"]),
            own["method"],
            f"{content['seconds_per_epoch']:.3g}",
            number(megabytes),
        )
    ]
    if "power" in content:
        power = content["power"]
        rows.append(("the same net", "", "", "", percent(power["vra"]), power["method"], "", ""))
    if paper is not None:
        rows.append(
            (
                f"paper, {paper.figure}, {paper.method}",
                number(paper.epochs),
                *("-" if value is None else f"{value:.1f}" for value in (paper.clean, paper.pgd, paper.vra)),
                "",
                number(paper.seconds_per_epoch),
                number(paper.megabytes),
            )
        )
    return rows


def _attack_text(attacks: dict[str, Any]) -> str:
    trials = "; ".join(
        f"{trial['name']} ({', '.join(f'{name} {value}' for name, value in trial['settings'].items())}): accuracy "
        f"{percent(trial['accuracy'])} %, broken certificates {trial['broken']:,}"
        for trial in attacks["trials"]
    )
    return (
        f"Attacks at epsilon {attacks['epsilon']:.6g} on {attacks['images']:,} test images, evenly spaced, "
        f"{attacks['certified']:,} of them certified. {trials}."
    )


def _smoothing_text(smoothing: dict[str, Any]) -> str:
    test = smoothing["test"]
    tried = "; ".join(
        f"{trial['noise']:g}: {percent(trial['vra'])} %" for trial in sorted(smoothing["tried"], key=_noise)
    )
    return (
        f"Randomized smoothing: a stochastic guarantee, wrong with probability {test['alpha']:g} an image, on the "
        f"first {test['images']:,} test images with {test['samples']:,} noisy copies each, "
        f"{test['seconds_per_image']:.3g} seconds an image; abstained on {percent(test['abstained'])} %. Deviation of "
        f"the noise: {test['noise']:g}, the best VRA on {smoothing['tried'][0]['images']:,} images held out of "
        f"training ({tried})."
    )


def _noise(trial: dict[str, Any]) -> float:
    return float(trial["noise"])


def _tightness_table(found: dict[str, Any], paper: PaperTightness | None) -> str:
    theirs: tuple[Cells, ...] = ((), (), ())
    if paper is not None:
        local = " to ".join(f"{ratio:.0%}" for ratio in paper.local_ratio)
        theirs = ("",), (f"{paper.global_ratio:.0%}",), (local,)
    pairs, balls = len(found["global_slopes"]), len(found["local_slopes"])
    rows = [
        (f"upper, {found['method']}", f"{found['upper']:.4g}", "", *theirs[0]),
        (f"global lower, {pairs} pairs", f"{found['global_lower']:.4g}", f"{found['global_ratio']:.1%}", *theirs[1]),
        (f"local lower, {balls} balls", f"{found['local_lower']:.4g}", f"{found['local_ratio']:.1%}", *theirs[2]),
    ]
    columns = ("Lipschitz constant (Figure 4c)", "", "of the upper", *(("the paper's",) if paper is not None else ()))
    return table(columns, rows)


def _cost_table(cost: dict[str, Any], recipe: dict[str, Any]) -> str:
    training, certification = cost["training"], cost["certification"]
    rows: list[Cells] = [
        (name, f"{cost_of['seconds_per_epoch']:.3g}", f"{cost_of['megabytes_per_instance']:.3g}")
        for name, cost_of in (
            ("the steps of an epoch by this recipe, s", training["recipe"]),
            ("those of standard training of the net with ReLU, s", training["standard"]),
        )
    ]
    rows += [
        (
            f"certifying {certification['images']:,} images, s",
            f"{certification['seconds']:.3g}",
            f"{certification['megabytes_per_instance']:.3g}",
        ),
        ("a plain forward pass over them, s", f"{certification['forward_seconds']:.3g}", ""),
        ("the Lipschitz bound, once, s", f"{certification['bound_seconds']:.3g}", ""),
    ]
    if recipe["architecture"] == "6C2F":
        paper = (f"{CERTIFICATION.seconds:g}", f"{CERTIFICATION.megabytes:g}")
        rows.append(("paper, Figure 4b: certifying 10,000 images on a GeForce RTX 3080, s", *paper))
    return table(("cost", "", "MB/instance"), rows)


def epochs_cell(content: Mapping[str, Any]) -> str:
    """Say how many epochs a run had, of how many that its recipe has, warm-up apart."""
    recipe, wanted = content["recipe"], content["recipe_epochs"]
    epochs = f"{recipe['epochs']}" + (f" + {recipe['warmup_epochs']}" if recipe["warmup_epochs"] else "")
    if recipe["epochs"] > wanted:
        return f"{epochs} (recipe: {wanted})"
    return epochs if recipe["epochs"] == wanted else f"{epochs} of {wanted}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as per cent with two digits after the point; - for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def number(value: float | None) -> str:
    """Return a number, three digits of it below ten; - for None."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 10 else f"{value:g}"
