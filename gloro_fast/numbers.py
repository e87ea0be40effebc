"""Numbers as people write l2 radii of images in bytes: 0.3, or 36/255."""

from __future__ import annotations


def read_number(text: str) -> float:
    """Return the number or the quotient of two that ``text`` says: ``36/255`` is Python's 36 / 255.

    Raises:
        ValueError: it is neither, or a quotient by 0.
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    try:
        return float(numerator) / float(denominator)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by 0") from None
