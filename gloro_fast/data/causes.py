"""What another library said went wrong, fit to stand in a message of one line."""

from __future__ import annotations


def cause(error: Exception) -> str:
    """Return the text of ``error`` on one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
