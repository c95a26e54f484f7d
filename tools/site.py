"""Hooks of MkDocs: pages of the site that are made of other files.

The changelog, the guide for contributors and the security policy stand in the root of the
repository, where other tools find them. The reference of the command is made of its help.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from godb_arrow.cli import main

_ROOT = Path(__file__).parents[1]
_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security_policy.md",
}
_COMMANDS = "<!-- commands -->"
_BOOSTS = {
    "api_connectors.md": 0.1, "api_engine.md": 0.1, "api_files.md": 0.1, "architecture.md": 0.2,
    "benchmarks.md": 0.5, "changelog.md": 0.2, "contributing.md": 0.2, "index.md": 0.3,
    "durability.md": 2, "limits.md": 2, "monitoring.md": 1.5, "security.md": 2,
    "troubleshooting.md": 1.5, "tuning.md": 1.5,
}  # fmt: skip
"""Weights of pages in the search: answers to questions of users come before references."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand in the root of the repository."""
    for name, page in _PAGES.items():
        path = _ROOT / name
        if path.exists():
            text = _linked(path.read_text(encoding="utf-8"))
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Insert the help of all commands, and set the weight of a page in the search."""
    if page.file.src_uri in _BOOSTS:
        page.meta["search"] = {"boost": _BOOSTS[page.file.src_uri]}
    for name, found in _PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({found}")
    return markdown.replace(_COMMANDS, _help_of(main, "godb-arrow", None))


def _linked(text: str) -> str:
    """Turn links of the repository's root into links of the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    for name, page in _PAGES.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text


def _help_of(command: click.Command, name: str, parent: click.Context | None) -> str:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=88)
    level = "##" if parent is None else "###"
    title = context.command_path.removeprefix("godb-arrow ")
    pieces = [f"{level} {title}\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            pieces.append(_help_of(found, inner, context))
    return "\n".join(pieces)
