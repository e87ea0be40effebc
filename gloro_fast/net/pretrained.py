"""Saving a GloRo net as a folder that rebuilds it, here or on the Hugging Face hub, and loading it from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from gloro_fast._version import __version__
from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import atomic, tensor_file
from gloro_fast.net import layer_list
from gloro_fast.net.bounded_net import BoundedNet
from gloro_fast.net.model_card import model_card

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_KIND = "pretrained net"
_REMEDY = "use a copy of what was saved"
_FIELDS = {
    "architecture", "input_shape", "num_classes", "epsilon", "power_iterations", "margins", "frozen", "results",
    "gloro_fast",
}  # fmt: skip


class _Saved(NamedTuple):
    config: dict[str, Any]
    tensors: dict[str, Tensor]


class PretrainedNet(BoundedNet):
    """The part of a GloRo net that saves and loads; see :class:`gloro_fast.net.gloro_net.GloRoNet`."""

    power_iterations: int

    def save_pretrained(self, save_directory: Path | str, results: Mapping[str, Any] | None = None) -> None:
        """Write the net to a folder: weights (model.safetensors), what rebuilds it (config.json), a model card.

        Args:
            save_directory: the folder, made if need be; files of these names are replaced.
            results: what is known of the net, such as the contents of a run's result.json: ``vra`` with ``epsilon``,
                ``method`` and ``data``, ``clean_accuracy``, ``command`` and anything else that JSON can say. It goes
                into config.json and the card.

        Raises:
            ConfigError: ``results`` cannot be written as JSON, or have a VRA that says not how it was found.
            CheckpointError: the file system refuses.
        """
        folder = Path(save_directory).expanduser()
        document = {
            "architecture": layer_list.describe(self.module),
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "epsilon": self.epsilon,
            "power_iterations": self.power_iterations,
            "margins": self._margins,
            "frozen": self._method if self.frozen else None,
            "results": _checked(results),
            "gloro_fast": __version__,
        }
        with tensor_file.saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # Tied weights are one memory under two names, which the format has no way to say.
        tensors = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        tensor_file.write(folder / WEIGHTS, _KIND, tensors, document)
        config = {**document, "sha256": _sha256(folder / WEIGHTS)}
        with tensor_file.saving(folder):
            # Last, so that a folder that was written in part is refused.
            atomic.write_text(folder / CARD, model_card(config))
            atomic.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Path | str,
        *,
        module: nn.Module | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Path | str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """Load a net that ``save_pretrained`` or ``push_to_hub`` wrote: the same bits, the same certificates.

        The bound is not read from anywhere but found from the weights; a net that was frozen is frozen again, by the
        same method.

        Args:
            pretrained_model_name_or_path: a folder, or a repository of the Hugging Face hub (extra ``hub``).
            module: a classifier of the same layers, whose weights are overwritten; needed where the saved one was no
                ``nn.Sequential`` of layers of ``torch.nn`` and ``gloro_fast.nn``.
            device: where the net is wanted.
            revision: branch, tag or commit on the hub; so are the others its options, as for
                ``huggingface_hub.hf_hub_download``.
            token: as there.
            cache_dir: as there.
            force_download: as there.
            local_files_only: as there.

        Returns:
            The net in evaluation mode.

        Raises:
            CheckpointError: files are missing, truncated, damaged or edited, or the hub does not give them.
            ConfigError: ``module`` is needed, or huggingface_hub is not installed.
        """
        name, folder = str(pretrained_model_name_or_path), Path(pretrained_model_name_or_path).expanduser()
        if folder.is_dir():
            files = folder / CONFIG, folder / WEIGHTS
        else:
            options: dict[str, Any] = {
                "revision": revision, "token": token, "cache_dir": cache_dir, "force_download": force_download,
                "local_files_only": local_files_only,
            }  # fmt: skip
            files = _download(name, CONFIG, options), _download(name, WEIGHTS, options)
        saved = _read(*files)
        try:
            return cls._of(saved, module, f"{name} does not fit its architecture", name).to(device)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{files[0]} lacks or spoils {error}; {_REMEDY}") from None

    def push_to_hub(self, repo_id: str, results: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Upload what ``save_pretrained`` writes to a repository of the Hugging Face hub, made if need be.

        Args:
            repo_id: such as ``"user/mnist-2c2f"``.
            results: as for ``save_pretrained``.
            **options: as for ``huggingface_hub.PyTorchModelHubMixin.push_to_hub``: ``private``, ``token``, ``branch``,
                ``commit_message`` and the like.

        Returns:
            The address of the commit.

        Raises:
            ConfigError: huggingface_hub is not installed, or ``results`` cannot be used.
        """
        hub = _hub()
        save = self.save_pretrained

        class Upload(hub.PyTorchModelHubMixin):  # type: ignore[misc, name-defined]
            def save_pretrained(self, save_directory: Path, **_: Any) -> None:
                save(save_directory, results)

        _checked(results)  # Before a repository is made.
        return str(Upload().push_to_hub(repo_id, **options))

    @classmethod
    def _of(cls, saved: _Saved, module: nn.Module | None, complaint: str, name: str) -> Self:
        config, tensors = saved
        if module is None:
            module = _module(config["architecture"], tensors, complaint, name)
        make: Any = cls  # A GloRo net, with its arguments.
        shape = tuple(config["input_shape"])
        net: Self = make(module, config["epsilon"], shape, config["power_iterations"], config["margins"])
        tensor_file.load_into(net, tensors, complaint)
        net.eval()
        return net.freeze(config["frozen"]) if config["frozen"] is not None else net


def _module(architecture: object, tensors: Mapping[str, Tensor], complaint: str, name: str) -> nn.Module:
    if architecture is None:
        raise ConfigError(
            f"the net in {name} is no sequence of layers of torch.nn and gloro_fast.nn; pass module=, a classifier of "
            "the same layers, to from_pretrained"
        )
    own = {key.removeprefix("module."): tensor for key, tensor in tensors.items() if key.startswith("module.")}
    # An architecture that claims more than the file holds is found out before it takes memory.
    expected = {key: tuple(tensor.shape) for key, tensor in layer_list.build(architecture, "meta").state_dict().items()}
    for key in expected.keys() | own.keys():
        if key not in own or key not in expected or expected[key] != tuple(own[key].shape):
            raise CheckpointError(f"{complaint}: {key} is missing, too much, or of another shape; {_REMEDY}")
    module = layer_list.build(architecture)
    for dtype in {tensor.dtype for tensor in own.values() if tensor.is_floating_point()}:
        module.to(dtype)
    return module


def _read(config_file: Path, weights_file: Path) -> _Saved:
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{config_file} is missing or damaged ({error}); {_REMEDY}") from None
    if not isinstance(config, dict) or "sha256" not in config:
        raise CheckpointError(f"{config_file} is not that of a gloro_fast net: it has no sha256; check the path")
    tensors, document = tensor_file.read(weights_file, _KIND)
    recorded = config.pop("sha256")
    if recorded != _sha256(weights_file):
        raise CheckpointError(
            f"{weights_file} is not the file of {CONFIG}, whose sha256 is {recorded!s:.64}; {_REMEDY}"
        )
    for key in sorted(_FIELDS | config.keys() | document.keys()):
        if key not in config or key not in document or config[key] != document[key]:
            raise CheckpointError(f"{config_file} was edited: {key!r} is not what {WEIGHTS} has; {_REMEDY}")
    return _Saved(document, tensors)


def _checked(results: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(results or {})
    if "vra" in found:
        for name in ("epsilon", "method", "data"):
            if name not in found:
                raise ConfigError(
                    f"results have a vra but no {name}; a VRA without its epsilon, method and data is none"
                )
    try:
        checked: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"results cannot be written as JSON ({error}); give strings, finite numbers, lists") from None
    return checked


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            f"the Hugging Face hub needs huggingface_hub, which cannot be imported ({error}); pip install "
            "'gloro-fast[hub]'"
        ) from None
    return huggingface_hub


def _download(name: str, file: str, options: Mapping[str, Any]) -> Path:
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise CheckpointError(f"there is no folder {name}; check the path")
    try:
        return Path(_hub().hf_hub_download(name, file, library_name="gloro-fast", **options))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"there is no folder {name}, and the hub does not give its {file} ({reason})") from None
