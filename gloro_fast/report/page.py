"""The page: HTML, style and pictures in one file, without scripts and without anything from elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape

from gloro_fast.evaluate.curve import vra_figure
from gloro_fast.report.contents import Contents
from gloro_fast.report.inline_svg import inline_svg
from gloro_fast.report.thumbnails import data_uri
from gloro_fast.reproduce.pictures import histogram_figure
from gloro_fast.train.observers.curves import curves_figure

# A matrix of more classes than this cannot be read; the pairs that are mixed up most can.
_MATRIX = 20
_PAIRS = 20
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --quiet: #595959; --line: #d9d9d9; --blue: #1f5fa8;
  --red: #b8402c; --shade: 31, 95, 168; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e6e6; --quiet: #a3a8ae; --line: #3a4048;
  --blue: #74aef0; --red: #f08a76; --shade: 116, 174, 240; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.quiet, figcaption, caption { color: var(--quiet); font-size: .875rem; text-align: left; }
.numbers { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 1rem 0; }
.numbers div { display: flex; flex-direction: column-reverse; }
.numbers dd { font-size: 1.6rem; font-weight: 600; margin: 0; } .numbers dt { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; } th { font-weight: 600; } td { overflow-wrap: anywhere; }
td.wrong { color: var(--red); font-weight: 600; }
figure { margin: 1rem 0; max-width: 38rem; } figure.wide { max-width: none; }
svg { width: 100%; height: auto; fill: currentColor; }
svg text { font-family: system-ui, sans-serif !important; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; padding: 0; }
.images li { list-style: none; font-size: .8rem; overflow-wrap: anywhere; }
.images img { width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated; display: block;
  border: 1px solid var(--line); }
code { font-size: .85rem; overflow-wrap: anywhere; }
@media print { :root { --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --blue: #1f5fa8; --red: #b8402c;
  --shade: 31, 95, 168; } body { max-width: none; margin: 0; font-size: 11pt; }
  figure, tr, .images li { break-inside: avoid; } h2, h3 { break-after: avoid; }
  figure { max-width: 24rem; } figure.wide { max-width: 36rem; }
  .images { grid-template-columns: repeat(6, 1fr); } .images img { width: 4rem; height: 4rem; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; } }
"""

_Cells = Sequence[object]


def html_page(contents: Contents) -> str:
    """Return the whole page; every word that comes from data, recipes or files is escaped."""
    recipe = contents.config.recipe
    title = f"{recipe.name}: {recipe.architecture} on {contents.data}"
    sections = (
        ("What it is worth", _worth(contents)),
        ("The certificate", _certificate(contents)),
        ("Training", _training(contents)),
        ("VRA over the radius", _radii(contents)),
        ("Confusion among the certified", _confusion(contents)),
        ("The least certain images", _images(contents)),
        ("Bound per layer", _layers(contents)),
        ("Cost", _cost(contents)),
        ("What was run", _run(contents)),
    )
    body = "\n".join(f"<section>\n<h2>{escape(heading)}</h2>\n{text}\n</section>" for heading, text in sections)
    note = f"; {contents.data_note}" if contents.data_note else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="quiet">{len(contents.split):,} images of the {contents.part} split{escape(note)}</p>
{body}
</main>
</body>
</html>
"""


def _worth(contents: Contents) -> str:
    found, epsilon = contents.evaluation, contents.epsilon
    lower, median, upper = found.radius_quartiles()
    numbers = (
        (f"VRA at ε = {epsilon:.4g}", f"{found.vra(epsilon):.2%}"),
        ("clean accuracy", f"{found.clean_accuracy:.2%}"),
        ("median certified radius", f"{median:.4g}"),
        (f"Lipschitz constant K, {contents.kind}", f"{found.lipschitz:.4g}"),
    )
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers)
    text = (
        "VRA: the share of all images that are classified correctly and certified, so that no change of l2 norm up to "
        f"ε alters the class. Quartiles of the radius are {lower:.4g} and {upper:.4g}, wrongly classified images at 0."
    )
    return f'<dl class="numbers">{listed}</dl>\n<p class="quiet">{escape(text)}</p>'


def _certificate(contents: Contents) -> str:
    found = contents.evaluation
    if contents.kind == "estimate":
        what = (
            f"K is an estimate, by {found.method}: power iteration approaches it from below. Every radius and VRA here "
            "rests on it, for comparison with the paper; none is a certificate."
        )
    else:
        what = (
            f"K is by {found.method}, of kind {contents.kind}: never below the true constant for these weights, "
            "the rounding of its own computation included."
        )
    if found.executed:
        rounding = "The rounding of the net's own forward pass is covered."
    else:
        rounding = "The rounding of the net's own forward pass is not covered: radii are for the logits as computed."
    return f"<p>{escape(what)} {escape(rounding)}</p>"


def _training(contents: Contents) -> str:
    if not contents.rows:
        return "<p>There are no metrics: the weights were not trained here.</p>"
    first, last = contents.rows[0], contents.rows[-1]
    alt = f"Curves over {len(contents.rows)} epochs: the loss goes from {first.loss:.4g} to {last.loss:.4g}, the clean "
    alt += f"accuracy in training from {first.train_clean:.1%} to {last.train_clean:.1%}."
    columns = ["", "epoch", "phase", "loss", "clean", "VRA (estimate)", "K (estimate)", "s"]
    shown = {"first": first, "last": last}
    chosen = contents.result.get("selected_epoch")
    selected = next((row for row in contents.rows if row.epoch == chosen), None)
    if selected is not None and selected is not last:
        shown["selected"] = selected
    rows = [
        (
            name,
            row.epoch,
            row.phase,
            f"{row.loss:.4f}",
            f"{row.train_clean:.2%}",
            _known(row.train_vra, ".2%"),
            _known(row.lipschitz, ".4g"),
            f"{row.seconds:.2f}",
        )
        for name, row in shown.items()
    ]
    table = _table(columns, rows, "Epochs, on the training split", numbers=(1, 3, 4, 5, 6, 7))
    figure = curves_figure(contents.rows)
    # What stands below them in the picture is a caption here, of a size to read.
    notes = [text.get_text() for text in figure.texts]
    for text in list(figure.texts):
        text.remove()
    caption = " ".join([*notes, "VRA and K of training are estimates by power iteration."])
    return f"{_figure(inline_svg(figure, 'curves', alt), caption, wide=True)}\n{table}"


def _radii(contents: Contents) -> str:
    found, epsilon = contents.evaluation, contents.epsilon
    kind = " (estimate)" if contents.kind == "estimate" else ""
    vra = f"{found.clean_accuracy:.1%} at most, {found.vra(epsilon):.1%} at {epsilon:.4g}"
    alt = f"VRA{kind} against the l2 radius: {vra}."
    curve = inline_svg(vra_figure(found, epsilon), "vra", alt)
    bars = inline_svg(histogram_figure(found, epsilon), "radii", f"How many images have which radius{kind}.")
    radii = [0.0, *(epsilon * factor for factor in (0.25, 0.5, 1, 1.5, 2))]
    rows = [(f"{radius:.4g}", f"{found.vra(radius):.2%}") for radius in radii]
    table = _table(("radius", f"VRA{kind}"), rows, f"VRA by {found.method}", numbers=(0, 1))
    return f"{_figure(curve)}\n{table}\n{_figure(bars, 'The last bar holds all larger radii.')}"


def _confusion(contents: Contents) -> str:
    matrix, names = contents.confusion(), contents.class_names
    total, right = int(matrix.sum()), int(matrix.diag().sum())
    text = (
        f"{total:,} images are certified at ε = {contents.epsilon:.4g}; {total - right:,} of them as a class that is "
        "not theirs: a certificate says that the class stays, not that it is right."
    )
    if len(names) > _MATRIX:
        wrong = matrix - matrix.diag().diag()
        places = wrong.flatten().argsort(descending=True, stable=True)[:_PAIRS].tolist()
        pairs = [divmod(place, len(names)) for place in places if int(wrong.flatten()[place])]
        rows: list[_Cells] = [(names[i], names[j], int(wrong[i, j])) for i, j in pairs]
        table = _table(("truth", "predicted", "images"), rows, "Pairs mixed up most", numbers=(2,)) if rows else ""
        return f"<p>{escape(text)}</p>\n{table}"
    largest = max(1, int(matrix.max()))
    lines = []
    for i, name in enumerate(names):
        cells = []
        for j, count in enumerate(matrix[i].tolist()):
            shade = f' style="background: rgba(var(--shade), {0.6 * count / largest:.2f})"' if count else ""
            kind = "n wrong" if count and i != j else "n"
            cells.append(f'<td class="{kind}"{shade}>{count or "·"}</td>')
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col" class="n">{escape(name)}</th>' for name in names)
    return (
        f'<p>{escape(text)}</p>\n<div class="scroll"><table><caption>Certified images: true class by row, predicted '
        f'class by column</caption>\n<thead><tr><th scope="col">truth</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _images(contents: Contents) -> str:
    certified = _gallery(contents, contents.least_certain())
    wrong = _gallery(contents, contents.most_wrong())
    return (
        f"<h3>Certified by the smallest radius</h3>\n{certified or '<p>None is certified.</p>'}\n"
        f"<h3>Wrong by the largest margin</h3>\n{wrong or '<p>None is wrong.</p>'}"
    )


def _gallery(contents: Contents, places: Iterable[int]) -> str:
    found, margins, items = contents.evaluation, contents.margins(), []
    for place in places:
        truth = contents.class_names[int(found.labels[place])]
        said = contents.class_names[int(found.prediction[place])]
        alt = f"image {place} of the {contents.part} split, truth {truth}, predicted {said}"
        items.append(
            f'<li><img src="{data_uri(contents.split.images[place])}" alt="{escape(alt)}">truth: {escape(truth)}<br>'
            f"predicted: {escape(said)}<br>radius {float(found.radius[place]):.6g}<br>"
            f"margin {float(margins[place]):.4g}<br>image {place}</li>"
        )
    return f'<ul class="images">{"".join(items)}</ul>' if items else ""


def _layers(contents: Contents) -> str:
    rows: list[_Cells] = []
    for layer in contents.layers:
        excess = "" if layer.tightness is None else f"{max(layer.tightness - 1, 0.0):.3%}"
        power = _known(layer.power, ".6g")
        rows.append((layer.name, f"{layer.value:.6g}", layer.method, layer.kind, power, excess))
    whole, estimate = contents.evaluation.lipschitz, contents.power
    excess = f"{max(whole / estimate - 1, 0.0):.3%}" if 0 < estimate < math.inf else ""
    rows.append(
        ("all of them (K)", f"{whole:.6g}", contents.evaluation.method, contents.kind, f"{estimate:.6g}", excess)
    )
    columns = ("layer", "bound", "by", "kind", "lower estimate", "excess")
    table = _table(columns, rows, "Lipschitz constants before the last layer", numbers=(1, 4, 5))
    text = "Lower estimate: power iteration, from below. Excess: how far the bound lies above it, slack at most."
    return f'<div class="scroll">{table}</div>\n<p class="quiet">{escape(text)}</p>'


def _cost(contents: Contents) -> str:
    result, cost = contents.result, contents.cost
    rows: list[_Cells] = [("parameters", f"{contents.parameters:,}")]
    if "seconds" in result:
        rows += [
            ("training, the whole run", f"{result['seconds']:,.1f} s on {result.get('device')}"),
            ("training, median epoch", f"{result.get('seconds_per_epoch')} s"),
        ]
    rows += [
        ("finding the bound, once", f"{cost.bound_seconds:.3g} s"),
        (
            f"certifying {cost.images:,} images",
            f"{cost.seconds:.3g} s (plain forward pass: {cost.forward_seconds:.3g} s)",
        ),
        ("memory of certifying, an image", f"{cost.megabytes_per_instance:.3g} MB, weights included"),
    ]
    note = "Bound and certification were timed once, as the page was written, beside whatever else the machine did."
    return f'{_table(("", ""), rows)}\n<p class="quiet">{escape(note)}</p>'


def _run(contents: Contents) -> str:
    result, config = contents.result, contents.config
    facts: list[_Cells] = [
        (name.replace("_", " "), result[name])
        for name in ("seed", "device", "threads", "epochs", "warmup_epochs", "selected_epoch", "graphs", "tf32")
        if name in result
    ]
    versions = result.get("versions")
    if isinstance(versions, dict):
        facts += [(name, value) for name, value in versions.items()]
    recipe = [(name, value) for name, value in dataclasses.asdict(config.recipe).items()]
    again = "gloro-fast train --recipe RUN/config.toml --out NEW"
    return (
        f"<p>To train it again: <code>{escape(again)}</code></p>\n{_table(('', ''), facts, 'Where')}\n"
        f"{_table(('', ''), recipe, 'Recipe')}"
    )


def _figure(svg: str, caption: str = "", wide: bool = False) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure{' class=wide' if wide else ''}>{svg}{below}</figure>"


def _table(columns: Sequence[str], rows: Iterable[_Cells], caption: str = "", numbers: Sequence[int] = ()) -> str:
    """Lay out rows, of which the first cell names the row; columns in ``numbers`` are set to the right."""
    kinds = ['class="n"' if place in numbers else "" for place in range(len(columns))]
    lines = []
    for row in rows:
        first, *rest = [escape(str(cell)) for cell in row]
        cells = "".join(f"<td {kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
        lines.append(f'<tr><th scope="row" {kinds[0]}>{first}</th>{cells}</tr>')
    head = "".join(f'<th scope="col" {kind}>{escape(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    heading = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f"<table>{above}{heading}<tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


def _known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
