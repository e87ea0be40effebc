"""Pictures as SVG to stand in a page, in the page's own colours, so that they can be read in light and in dark."""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure

# The colours of the package's pictures, and what the page calls them.
_COLOURS = {
    "#1f5fa8": "var(--blue)",
    "#c8503c": "var(--red)",
    "#555555": "var(--quiet)",
    "#dddddd": "var(--line)",
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
}


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return ``figure`` as an ``<svg>`` element with its text as text.

    Args:
        figure: in the colours of the package's pictures.
        name: ids in the picture begin with it: letters and hyphens, another for each picture of a page.
        alt: what the picture shows, for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', text))
    text = re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _COLOURS.items():
        text = re.sub(rf"{colour}\b", variable, text, flags=re.IGNORECASE)
    width, height = re.findall(r' (?:width|height)="([\d.]+)pt"', text[:600])[:2]
    start = text.index(">") + 1
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{name}-title">{escape(alt)}</title>'
    )
    return head + re.sub(r"\n\s*", "\n", text[start:])
