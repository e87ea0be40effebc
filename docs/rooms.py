"""Draw docs/rooms.svg: the rooms of the package on their floors, and the ways of a batch, a weight and an epsilon.

``python docs/rooms.py`` writes the picture anew after a change of rooms or imports; a test compares the two.
"""

from __future__ import annotations

import runpy
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent

# What is in a room, in two lines of some 22 characters.
INSIDE = {
    "__main__": ("python -m gloro_fast",),
    "__init__": ("GloRoNet, Certificate,", "convert"),
    "cli": ("the command line,", "one file a command"),
    "report": ("a run as one page", "of HTML"),
    "reproduce": ("rows of the paper", "run anew, reported"),
    "certificate_file": ("certificates of a", "data split, in JSON"),
    "train": ("trainer, checkpoints,", "captured steps"),
    "evaluate": ("VRA, attacks,", "lower bounds"),
    "export": ("certified programs", "for other runtimes"),
    "serve": ("certificates", "over HTTP"),
    "net": ("GloRoNet, and the bound", "tied to its weights"),
    "rounding_error": ("rounding of the net's", "own forward pass"),
    "models": ("architectures, trained", "nets, Keras weights"),
    "keras_weights": ("where load_keras is", "imported from"),
    "graph": ("capture, read, check,", "compose, execute"),
    "nn": ("layers that know", "their constant"),
    "bounds": ("upper bounds of norms,", "float64, one a file"),
    "kernels": ("Triton kernels",),
    "doctor": ("kernels checked on", "the user's GPU"),
    "losses": ("criteria with", "bottom"),
    "audit": ("certificates checked", "by other means"),
    "rules": ("what is known of", "PyTorch's layers"),
    "ops": ("ops, each with its", "oracle beside it"),
    "data": ("data sets, batches,", "augmentation"),
    "progress": ("how far a command is,", "said every 30 s"),
    "pixels": ("images in [0, 1],", "checked"),
    "files": ("files that are whole", "or not there"),
    "distributed": ("processes that work", "together (torchrun)"),
    "native": ("compiled library,", "choice of kernels"),
    "recipes": ("configurations,", "schedules"),
    "_version": ("major.minor.patch",),
    "errors": ("one line, with", "the remedy"),
    "rounding": ("directed rounding",),
}
WAYS = {
    "batch": ("#1f77b4", ("data", "train", "net", "pixels", "graph", "nn", "ops", "kernels", "losses")),
    "weight": (
        "#b8520a",
        ("graph", "rules", "ops", "bounds", "rounding", "net", "certificate_file", "audit"),
    ),
    "epsilon": ("#2c7a2c", ("recipes", "train", "net", "ops", "evaluate")),
}
WIDTH, LEFT, TOP, FLOOR, HIGH, WIDE, GAP = 1000, 50, 56, 74, 62, 180, 10


def draw(floors: dict[str, int]) -> str:
    """Return the picture for rooms on these floors, the ground floor being 1."""
    top = max(floors.values())
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + top * FLOOR}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{TOP + top * FLOOR}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14">Rooms of gloro_fast: each imports only from floors below</text>',
    ]
    for place, (way, (color, rooms)) in enumerate(WAYS.items()):
        assert set(rooms) <= floors.keys(), way
        x = LEFT + 540 + 140 * place
        found += [_stop(x, 17, color, 1), f'<text x="{x + 14}" y="21">way of {_an(way)}</text>']
    for floor in range(top, 0, -1):
        y = TOP + (top - floor) * FLOOR
        found.append(f'<text x="14" y="{y + 36}" fill="#777777">{floor}</text>')
        for column, room in enumerate(room for room in INSIDE if floors[room] == floor):
            found += _room(room, LEFT + column * (WIDE + GAP), y)
    return "\n".join([*found, "</svg>", ""])


def _room(room: str, x: int, y: int) -> list[str]:
    drawn = [
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="4" fill="#f4f4f6" stroke="#8a8a93"/>',
        f'<text x="{x + 9}" y="{y + 19}" font-weight="bold">{escape(room)}</text>',
        *(
            f'<text x="{x + 9}" y="{y + 37 + 15 * line}">{escape(text)}</text>'
            for line, text in enumerate(INSIDE[room])
        ),
    ]
    stops = [(color, rooms.index(room) + 1) for color, rooms in WAYS.values() if room in rooms]
    return drawn + [
        _stop(x + WIDE - 14 - 21 * (len(stops) - 1 - place), y + 14, color, number)
        for place, (color, number) in enumerate(stops)
    ]


def _stop(x: int, y: int, color: str, number: int) -> str:
    return (
        f'<circle cx="{x}" cy="{y}" r="9" fill="{color}"/>'
        f'<text x="{x}" y="{y + 4}" fill="#ffffff" text-anchor="middle" font-size="11">{number}</text>'
    )


def _an(way: str) -> str:
    return f"an {way}" if way[0] in "aeiou" else f"a {way}"


def picture() -> str:
    """Return the picture of the package as its sources are."""
    house: dict[str, Any] = runpy.run_path(str(DOCS.parent / "tests" / "house.py"))
    floors = house["floors"](list(house["imports"](house["modules"]())))
    assert floors.keys() == INSIDE.keys(), f"describe these rooms in {__file__}: {floors.keys() ^ INSIDE.keys()}"
    return draw(floors)


if __name__ == "__main__":
    (DOCS / "rooms.svg").write_text(picture(), encoding="utf-8")
