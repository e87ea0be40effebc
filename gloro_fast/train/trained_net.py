"""The trained net of a finished run."""

from __future__ import annotations

from pathlib import Path

from gloro_fast.errors import CheckpointError
from gloro_fast.files import tensor_file
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.train.build import build_net
from gloro_fast.train.config import RunConfig, read_config_of
from gloro_fast.train.run_folder import RunFolder


def load_net(run: Path | str, device: str = "cpu") -> tuple[GloRoNet, RunConfig]:
    """Load the trained net of a finished run.

    Args:
        run: the run folder.
        device: where the net is wanted.

    Returns:
        The net in evaluation mode, its epsilon the certified one, and the configuration of the run, both as the
        model's own document has them; of config.toml only ``data_dir`` counts, since data may move.

    Raises:
        CheckpointError: the folder is missing, the run is not finished, or the model is truncated or damaged.
        ConfigError: config.toml cannot be read or is not that of the model, or there is no such device.
    """
    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise CheckpointError(f"there is no run folder {folder.path}; check the path")
    if not folder.finished:
        if folder.checkpoint.is_file():
            raise CheckpointError(f"run {folder.path} is not finished; finish it with: train --resume")
        raise CheckpointError(f"{folder.path} holds no finished run ({folder.result.name} is missing)")
    tensors, document = tensor_file.read(folder.model, "model")
    config = read_config_of(folder.model, document, folder.config)
    net = build_net(config, device)
    tensor_file.load_into(net, tensors, f"{folder.model} does not fit architecture {config.recipe.architecture}")
    net.epsilon = config.recipe.epsilon
    net.eval()
    return net, config
