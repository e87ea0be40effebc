"""The pages of the documentation site: what lies in the repository as Markdown, and one page for every public name.

A hook of MkDocs. Files keep the places that they have in the repository, so that the same relative links work on the
site and where the repository is browsed. Sources are read by griffe and never imported.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

WRITTEN = (
    "*.md",
    "docs/*.md",
    "docs/*.json",
    "docs/*.svg",
    "examples/*.py",
    "benchmarks/**/README.md",
    "benchmarks/results/latest.*",
    "reports/*/README.md",
    "reports/*/*.png",
)

# Public modules that are no package with an __all__: all that they define is public.
MODULES = ("losses", "architectures", "schedules", "errors", "certificate_file")

log = logging.getLogger("mkdocs.hooks.pages")


def public_names(package: griffe.Module) -> Iterator[tuple[str, list[str]]]:
    """List every public module by its path, each with its public names.

    Public are the ``__all__`` of the package and of the packages directly in it, and what is defined in ``MODULES``.
    """
    yield package.path, _exports(package)
    for name, member in sorted(package.members.items()):
        if name in MODULES:
            yield f"{package.path}.{name}", [
                n for n, m in member.members.items() if not m.is_alias and not n.startswith("_")
            ]
        elif member.is_module and not member.is_alias and member.exports is not None:
            yield member.path, _exports(member)


def _exports(module: griffe.Module) -> list[str]:
    return [str(name) for name in module.exports or ()]


def undocumented(package: griffe.Module) -> list[str]:
    """List public names that have no docstring, or that the sources do not define."""
    missing = []
    for module, names in public_names(package):
        for name in names:
            path = f"{module}.{name}".removeprefix(f"{package.path}.")
            try:
                documented = package[path].has_docstring
            except (KeyError, griffe.AliasResolutionError):
                documented = False
            if not documented:
                missing.append(f"{package.path}.{path}")
    return missing


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the pages of ``docs/`` by those of the whole repository, add one a public name, and put all in the menu.

    Warns, which ``--strict`` makes an error, of public names without a docstring.
    """
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for pattern in WRITTEN for path in ROOT.glob(pattern)}):
        source = path.relative_to(ROOT).as_posix()
        files.append(File(source, str(ROOT), config.site_dir, config.use_directory_urls))

    package = griffe.load("gloro_fast", search_paths=[ROOT], allow_inspection=False)
    assert isinstance(package, griffe.Module)
    for name in undocumented(package):
        log.warning(f"{name} is public and has no docstring")
    listed = dict(public_names(package))
    menu: list[dict[str, Any]] = []
    for module, names in listed.items():
        pages = {name: f"reference/{module}/{name}.md" for name in names if f"{module}.{name}" not in listed}
        targets = {name: f"{name}.md" if name in pages else f"../{module}.{name}/index.md" for name in names}
        overview = f"reference/{module}/index.md"
        summary = f"# {module}\n\n::: {module}\n    options: {{members: [], show_root_heading: false}}\n"
        links = [f"- [`{name}`]({targets[name]})" for name in names]
        files.append(File.generated(config, overview, content="\n".join([summary, *links])))
        for name, page in pages.items():
            files.append(File.generated(config, page, content=f"# {name}\n\n::: {module}.{name}\n"))
        menu.append({module: [overview, *pages.values()]})
    assert config.nav is not None
    config.nav.append({"Reference": menu})
    return files


class PlainRoles(griffe.Extension):
    """Show the roles of Sphinx in docstrings, such as ``:func:`f```, as the code that they name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
