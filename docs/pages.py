"""The pages of the documentation site: what lies in the repository as Markdown, and one page for every public name.

A hook of MkDocs. Files keep the places that they have in the repository, so that the same relative links work on the
site and where the repository is browsed. Sources are read by griffe and never imported.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

WRITTEN = (
    "*.md",
    "CITATION.cff",
    "docs/*.md",
    "docs/*.json",
    "docs/*.svg",
    "examples/*.md",
    "examples/*.py",
    "examples/*.ipynb",
    "examples/slurm/*.sbatch",
    "gloro_fast/models/trained/*/README.md",
    "benchmarks/**/README.md",
    "benchmarks/results/latest.*",
    "reports/*/README.md",
    "reports/*/*.png",
)

# Public modules without an __all__: what they define is public.
MODULES = ("architectures", "keras_weights", "schedules", "errors", "certificate_file")

log = logging.getLogger("mkdocs.hooks.pages")


def load(folder: Path) -> griffe.Module:
    """Read the package that lies in ``folder``."""
    extensions = griffe.load_extensions(SphinxRoles())
    package = griffe.load(
        "gloro_fast", search_paths=[folder], try_relative_path=False, allow_inspection=False, extensions=extensions
    )
    assert isinstance(package, griffe.Module)
    return package


def public_names(package: griffe.Module) -> dict[str, list[str]]:
    """List the public names of every public module by its path.

    Public are the ``__all__`` of the package and of the packages directly in it, and what is defined in ``MODULES``.
    """
    found = {package.path: list(map(str, package.exports or ()))}
    for name, member in sorted(package.members.items()):
        if name in MODULES:
            defined = member.final_target if isinstance(member, griffe.Alias) else member
            names = [n for n, inner in defined.members.items() if not (inner.is_alias or n.startswith("_"))]
            found[f"{package.path}.{name}"] = names
        elif isinstance(member, griffe.Module) and member.exports:
            found[member.path] = list(map(str, member.exports))
    return found


def summary(package: griffe.Module, name: str) -> str:
    """Return the first line of a docstring; the empty string if there is none, or no such name in the sources."""
    try:
        docstring = package[name.removeprefix(f"{package.path}.")].docstring
    except (KeyError, griffe.AliasResolutionError):
        return ""
    return docstring.lines[0] if docstring else ""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the pages of ``docs/`` by those of the whole repository, add one a public name, and put all in the menu.

    Warns, which ``strict`` makes an error, of public names without a docstring.
    """
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for written in sorted({path for pattern in WRITTEN for path in ROOT.glob(pattern)}):
        source = written.relative_to(ROOT).as_posix()
        files.append(File(source, str(ROOT), config.site_dir, config.use_directory_urls))

    package = load(ROOT)
    modules = public_names(package)
    menu: list[dict[str, Any]] = []
    for module, names in modules.items():
        overview = [f"::: {module}", "    options: {members: []}", ""]
        entries: list[str | dict[str, str]] = [f"reference/{module}/index.md"]
        for name in names:
            path = f"{module}.{name}"
            described = summary(package, path)
            if not described:
                log.warning(f"{path} is public and has no docstring; write one")
            if path in modules:
                overview.append(f"- [`{name}`](../{path}/index.md): {described}")
                continue
            overview.append(f"- [`{name}`]({name}.md): {described}")
            entries.append({name: f"reference/{module}/{name}.md"})
            files.append(File.generated(config, f"reference/{module}/{name}.md", content=f"::: {path}\n"))
        files.append(File.generated(config, f"reference/{module}/index.md", content="\n".join(overview)))
        menu.append({module: entries})
    assert config.nav is not None
    config.nav.append({"Reference": menu})
    return files


class SphinxRoles(griffe.Extension):
    """Show what docstrings have of Sphinx, roles such as ``:func:`f``` and code after ``::``, as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
