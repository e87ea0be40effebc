"""What a run over all rows has decided and used, kept in a file so that it can be gone on with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import atomic


@dataclass
class Entry:
    """What is known of a row.

    Attributes:
        fields: of the recipe, as its runs have them; None as long as that is not decided.
        share: the seconds that it may use; None for as many as it takes.
        used: seconds that it has used.
        seconds_per_epoch: as measured before; None where that was not needed.
        done: whether its report is written.
        fault: why it could not be finished; empty where nothing failed.
    """

    fields: dict[str, Any] | None = None
    share: float | None = None
    used: float = 0.0
    seconds_per_epoch: float | None = None
    done: bool = False
    fault: str = ""


class Ledger:
    """The rows that were begun, and the seconds that were used, all of them together.

    Args:
        path: its file; read if it is there.
        asked: what every row has in common; to go on it must be the same.

    Attributes:
        path: the same.
        entries: by the label of the row.

    Raises:
        CheckpointError: the file is damaged.
        ConfigError: it was begun with something else; names what.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path, self._asked = path, dict(asked)
        self.entries: dict[str, Entry] = {}
        self._begun, self._before = time.monotonic(), 0.0
        if path.is_file():
            self._read()

    @property
    def used(self) -> float:
        """Seconds of this run and of those that it goes on with."""
        return self._before + time.monotonic() - self._begun

    @contextmanager
    def counting(self, entry: Entry) -> Iterator[None]:
        """Count the time of the block as used by a row, and save the ledger before and after, however it ends."""
        self.save()
        begun, before = time.monotonic(), entry.used
        try:
            yield
        finally:
            entry.used = before + time.monotonic() - begun
            self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entries = {label: asdict(entry) for label, entry in self.entries.items()}
        content = {"asked": self._asked, "used": self.used, "rows": entries}
        atomic.write_text(self.path, json.dumps(content, indent=1) + "\n")

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            before, self._before = content["asked"], float(content["used"])
            self.entries = {label: Entry(**values) for label, values in content["rows"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path} is damaged ({error}); begin anew with --overwrite") from None
        changed = [
            f"{name} from {before.get(name)} to {now}" for name, now in self._asked.items() if before.get(name) != now
        ]
        if changed:
            raise ConfigError(
                f"--resume cannot change {', '.join(changed)}; leave that out, or begin anew with --overwrite"
            )
