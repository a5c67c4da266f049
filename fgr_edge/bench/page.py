"""A run as one HTML file with its plots, which needs nothing beside itself and runs no script."""

from __future__ import annotations

import os
import tempfile
from html import escape
from pathlib import Path

from fgr_edge.bench import html
from fgr_edge.bench.document import Document
from fgr_edge.bench.plots import figures
from fgr_edge.bench.table import HEADS, LEGEND, cells, fact_rows, not_measured, precision, rows
from fgr_edge.errors import StorageError

STYLE = "figure{width:480px}.figures{align-items:flex-start}"


def page(document: Document) -> str:
    """The HTML."""
    title = f"{document['bundle']['name']} ({precision(document)}) on {document['machine']['cpu'] or 'this machine'}"
    drawn = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in figures(document)
    )
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{_value(name, value)}</td></tr>" for name, value in fact_rows(document)
    )
    return html.page(
        title,
        _verdict(document)
        + f'<div class="figures">{drawn}</div><h2>All measures</h2>'
        + _table(document)
        + f'<p class="dim">{escape(LEGEND)}.</p>'
        + _section("Not measured", not_measured(document))
        + _section("Notes", document["notes"])
        + f"<h2>What was measured, and where</h2><table>{facts}</table>",
        STYLE,
    )


def write_page(document: Document, path: Path) -> None:
    """Write the page whole, or not at all; an older one is replaced.

    Raises:
        StorageError: writing failed.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
            temporary = file.name
            file.write(page(document))
        os.chmod(temporary, 0o644)  # a temporary file is for its owner alone
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"{path}: the page cannot be written ({error}); expected a folder with room") from error


def check_writable(path: Path) -> None:
    """Before minutes of work whose page is wanted.

    Raises:
        StorageError: `path` is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise StorageError(f"--html {path} is a folder; expected the name of a file in it")
    parent = next(folder for folder in path.resolve().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StorageError(f"--html {path}: {parent} cannot be written to; give another place")


def _verdict(document: Document) -> str:
    noise = document["noise"]
    if noise["quiet"]:
        kind, text = "good", "The machine was quiet while measuring"
    else:
        kind, text = "bad", "The machine was not quiet: do not quote these numbers as the bundle's"
    return f'<div class="verdict {kind}"><b>{text}</b>{html.sentences(noise["findings"])}</div>'


def _table(document: Document) -> str:
    """All measures; a test is named on its first line only."""
    every = [cells(row) for row in rows(document)]
    tests = [line[0] for line in every]
    for line, before in zip(every[1:], tests, strict=False):
        line[0] = "" if line[0] == before else line[0]
    return html.table(HEADS, every, 2)


def _section(title: str, texts: list[str]) -> str:
    return f"<h2>{title}</h2>{html.sentences(texts)}" if texts else ""


def _value(name: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if name == "command" else escape(value)
