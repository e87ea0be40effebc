"""A run folder for a net that was trained elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gloro_fast.files import atomic, tensor_file
from gloro_fast.models.keras_weights import ImportedNet
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.recipes import Recipe
from gloro_fast.train.config import RunConfig
from gloro_fast.train.result import versions
from gloro_fast.train.run_folder import RunFolder


def write_imported(folder: RunFolder, net: ImportedNet, recipe: Recipe, source: Path) -> RunConfig:
    """Write what a finished run leaves, but for measurements: model, config.toml, and a result that names the source.

    Args:
        folder: where; made, and emptied of an earlier run's files.
        net: the net.
        recipe: what it was trained by, as far as is known: data set, architecture, epsilon.
        source: the file that the weights came from.

    Returns:
        The configuration.

    Raises:
        ConfigError, CheckpointError: the folder cannot be written.
    """
    note = f"weights imported from {source.name}"
    config = RunConfig(recipe, net.input_shape, net.num_classes, data_note=note)
    wrapped = GloRoNet(net.module, recipe.epsilon, net.input_shape, recipe.power_iterations)
    folder.create()
    document = {"epsilon": recipe.epsilon, "config": config.to_dict()}
    tensor_file.write(folder.model, "model", wrapped.state_dict(), document)
    result = {
        "recipe": recipe.name,
        "data_note": note,
        "architecture": recipe.architecture,
        "epsilon": recipe.epsilon,
        "imported_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "versions": versions(),
    }
    for path, text in ((folder.config, config.to_toml()), (folder.result, json.dumps(result, indent=2) + "\n")):
        with tensor_file.saving(path):
            atomic.write_text(path, text)
    return config
