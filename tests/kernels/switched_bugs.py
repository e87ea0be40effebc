"""Several bugs in one C++ program, each behind a switch: to compile takes far longer than to run.

The variable PLANTED_BUG is the number of the one that is on.
"""

from __future__ import annotations

from pathlib import Path

DECLARATION = "extern const int planted_bug;\n"
# Constant, so that no sanitizer takes reading it for a race.
DEFINITION = f"""#include <cstdlib>
{DECLARATION}
const int planted_bug = std::getenv("PLANTED_BUG") == nullptr ? -1 : std::atoi(std::getenv("PLANTED_BUG"));
"""


def plant(path: Path, right: str, wrong: str, number: int) -> None:
    """Replace ``right``, which stands in the file once, by ``wrong``, which does the same unless ``BUG`` is true."""
    source = path.read_text()
    assert source.count(right) == 1, f"{path.name} no longer has the place where the bug is planted: {right}"
    path.write_text(DECLARATION + source.replace(right, wrong.replace("BUG", f"(planted_bug == {number})")))
