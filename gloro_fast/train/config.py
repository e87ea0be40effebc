"""What decides a run: the recipe, the seed, and where it runs; kept as config.toml in the run folder."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from gloro_fast.errors import CheckpointError, ConfigError, nearest
from gloro_fast.recipes import Recipe

_TF32 = {"on": True, "off": False, "torch": None}
# Data are recognized by their contents, wherever they are now; threads and processes change no more than the last bits.
_MAY_DIFFER = ("data_dir", "data_note", "threads", "processes")


@dataclass(frozen=True)
class RunConfig:
    """What decides a run; the same configuration and data give the same bits on one CPU.

    Attributes:
        recipe: the training recipe.
        input_shape: (C, H, W) of one image.
        num_classes: m, bottom not among them.
        seed: of initialization, data order, augmentation and validation split; 0 to 2^63 - 1.
        device: where training runs, as torch names it.
        data_dir: where the data were found; empty where they need no place.
        threads: CPU threads of torch; 0 stands for as many as torch has when the run starts.
        data_note: what to print beside results made with these data.
        deterministic: whether a GPU uses deterministic algorithms alone, for the same bits at every run.
        test_share: the share of each class that was held out for testing; 0 where the data come split.
        tf32: whether training on a GPU may use TF32: "on", "off", or "torch", as torch's switches say.
        processes: how many shared each batch when the run began.
    """

    recipe: Recipe
    input_shape: tuple[int, ...]
    num_classes: int
    seed: int = 0
    device: str = "cpu"
    data_dir: str = ""
    threads: int = 0
    data_note: str = ""
    deterministic: bool = True
    test_share: float = 0.0
    tf32: str = "torch"
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2^63 - 1")
        if self.tf32 not in _TF32:
            raise ConfigError(f"tf32 is {self.tf32!r}; choose on, off or torch")

    @property
    def allows_tf32(self) -> bool | None:
        """Whether training may use TF32; None where torch's switches decide."""
        return _TF32[self.tf32]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as TOML and JSON can say them, the recipe as a table, last."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["recipe"]
        return {**fields, "input_shape": list(self.input_shape), "recipe": dataclasses.asdict(self.recipe)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Read what :meth:`to_dict` gave.

        Raises:
            ConfigError: a field does not exist (the nearest name is suggested), is missing, or has a value of
                another type or that cannot be used.
        """
        table = values.get("recipe")
        if not isinstance(table, Mapping):
            raise ConfigError("the configuration has no table [recipe]; it is not that of a run")
        plain = {name: value for name, value in values.items() if name != "recipe"}
        recipe = Recipe(**_checked(Recipe, table))
        return cls(recipe=recipe, **_checked(cls, plain, apart="recipe"))

    def to_toml(self) -> str:
        """Return the text of config.toml."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> RunConfig:
        """Read the text of config.toml; errors as for :meth:`from_dict`."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"the configuration is not TOML: {error}") from None


def read_config(path: Path) -> RunConfig:
    """Read a config.toml.

    Raises:
        CheckpointError: there is none.
        ConfigError: it cannot be used; the message names the file.
    """
    try:
        return RunConfig.from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}; it is not the folder of a run") from None
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def read_config_of(file: Path, document: Mapping[str, Any], beside: Path) -> RunConfig:
    """Return the configuration that a file of the run was written under.

    Args:
        file: the file, for messages.
        document: what it holds beside its tensors; its ``config`` counts.
        beside: the config.toml beside it, which must say the same if it is there, but for ``data_dir``.

    Raises:
        CheckpointError: ``document`` has no configuration that can be used.
        ConfigError: config.toml cannot be read, or differs; every field that does is named.
    """
    try:
        config = RunConfig.from_dict(document["config"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{file} cannot be used ({error}); train the run again") from None
    if not beside.exists():
        return config
    edited = read_config(beside)
    changes = _changes(_flat(config), _flat(edited))
    if changes:
        raise ConfigError(
            f"{beside} differs from what {file.name} was written under: {changes}; change it back, or start a new run"
        )
    return dataclasses.replace(config, data_dir=edited.data_dir)


def check_unchanged(saved: RunConfig, requested: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under another configuration.

    Args:
        saved: the configuration of the run.
        requested: fields of :class:`RunConfig` and of its recipe side by side, by name; ``recipe`` is a recipe
            or its name. None stands for a field that nobody asked for. ``data_dir`` may differ, since the data
            are recognized by their contents, and ``data_note`` with it.

    Raises:
        ConfigError: names every field that differs with its old and new value, or a field that does not exist.

    Warns:
        UserWarning: another number of threads, which changes the last bits of the result.
    """
    fields = dict(requested)
    recipe = fields.pop("recipe", None)
    if isinstance(recipe, str):
        fields.setdefault("name", recipe)
    elif recipe is not None:
        fields = {**dataclasses.asdict(recipe), **fields}
    known = _flat(saved)
    for name in fields:
        if name not in known:
            raise ConfigError(f"runs have no field {name!r}{nearest(name, known)}")
    changes = _changes(known, fields)
    if changes:
        raise ConfigError(f"--resume cannot change {changes}; leave that out, or start a new run in another --out")
    if fields.get("threads") is not None:
        warn_threads(saved.threads, fields["threads"])


def _flat(config: RunConfig) -> dict[str, Any]:
    """Return the fields of the configuration and of its recipe side by side."""
    fields = config.to_dict()
    return {**fields.pop("recipe"), **fields}


def _changes(known: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Name the fields that differ, with both values; None, and what may differ, counts as no change."""
    changes = []
    for name, value in fields.items():
        new: Any = list(value) if isinstance(value, tuple) else value
        if new is not None and new != known[name] and name not in _MAY_DIFFER:
            changes.append(f"{'recipe' if name == 'name' else name} from {known[name]!r} to {new!r}")
    return ", ".join(changes)


def warn_threads(saved: int, now: int) -> None:
    """Warn if a run goes on with another number of threads than it began with; 0 is none in particular."""
    if now not in (saved, 0):
        warnings.warn(
            f"the run was started with {saved} CPU threads and goes on with {now}: the result will differ in its "
            f"last bits; set OMP_NUM_THREADS={saved} for the same bits",
            stacklevel=3,
        )


def warn_processes(saved: int, now: int) -> None:
    """Warn if a run goes on with another number of processes than it began with."""
    if now != saved:
        warnings.warn(
            f"the run was started by {saved} process{'es'[: 2 * (saved > 1)]} and goes on with {now}: the batches are "
            "the same, but the result will differ in its last bits",
            stacklevel=3,
        )


def _checked(kind: type, values: Mapping[str, Any], apart: str = "") -> dict[str, Any]:
    """Check names and types of the fields of a dataclass."""
    types = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != apart}
    for name in values:
        if name not in fields:
            raise ConfigError(f"there is no field {name!r}{nearest(name, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"the field {name!r} is missing")
    return {name: _converted(name, value, types[name]) for name, value in values.items()}


def _converted(name: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[int, ...] and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if type(value) is not kind:
        readable = getattr(kind, "__name__", str(kind))
        raise ConfigError(f"{name} is {value!r}; it must be of type {readable}")
    return value
