"""The model card of a GloRo net: what it is, how to load it, what it is worth and how that was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHARES = {"vra": "verified-robust accuracy (VRA)", "clean_accuracy": "clean accuracy"}


def model_card(config: Mapping[str, Any]) -> str:
    """Write the card, in Markdown with the head that the Hugging Face hub reads.

    Args:
        config: the contents of config.json.
    """
    results = config["results"]
    image = len(config["input_shape"]) == 3
    given = config["architecture"] is None
    rows = [
        ("certified against", f"l2 perturbations of norm at most {config['epsilon']:g}, in units of the input"),
        ("input", "x".join(map(str, config["input_shape"]))),
        ("classes", config["num_classes"]),
        ("bound frozen by", config["frozen"]) if config["frozen"] else None,
        *((_SHARES.get(name, name.replace("_", " ")), _shown(name, value)) for name, value in results.items()),
        ("SHA-256 of model.safetensors", f"`{config['sha256']}`"),
        ("written by", f"gloro_fast {config['gloro_fast']}"),
    ]
    return "\n".join(
        [
            "---",
            "library_name: gloro-fast",
            *(["pipeline_tag: image-classification"] if image else []),
            "tags: [gloro, certified-robustness, lipschitz, pytorch]",
            "---",
            "",
            "# A GloRo net",
            "",
            "A classifier that certifies its predictions ([Leino, Wang, Fredrikson 2021](https://arxiv.org/abs/2102.08452)):",
            "",
            "```python",
            "from gloro_fast import GloRoNet",
            "",
            f"net = GloRoNet.from_pretrained(FOLDER_OR_REPOSITORY{', module=classifier' if given else ''})",
            "certificate = net.certify(images)  # prediction, certified, radius",
            "```",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in filter(None, rows)),
            "",
            "The figures are those of the weights with this SHA-256 and of no others; config.json has them too, and "
            "files that do not belong together are refused.",
            "",
        ]
    )


def _shown(name: str, value: Any) -> str:
    if name in _SHARES and isinstance(value, int | float):
        return f"{value:.2%}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, list):
        value = ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if name in ("command", "commit") else text.replace("|", "\\|").replace("\n", " ")
