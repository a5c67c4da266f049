"""The command that all verbs hang on: what is said before a verb, and how a failure is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated

import typer

from fgr_edge.errors import FgrEdgeError, MissingExtraError

# Typer draws its help with all that rich declares. A device may leave that out (requirements/device.txt): plain help.
COLOURED_HELP = all(find_spec(name) is not None for name in ("rich", "markdown_it", "pygments"))

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if COLOURED_HELP else None,
    help="Fine-grained recognition with a multimodal LLM, compiled for the edge.",
)


def main() -> None:
    """Entry point: known failures are one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except FgrEdgeError as error:
        print(f"fgr-edge: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each stage.")] = False,
) -> None:
    """Fine-grained recognition with a multimodal LLM, compiled for the edge."""
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    if version:
        from fgr_edge import __version__

        print(__version__)
        raise typer.Exit


@contextmanager
def extra(name: str) -> Iterator[None]:
    """What is done in here needs an extra.

    Raises:
        MissingExtraError: a package of it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if isinstance(error, MissingExtraError) or error.name is None or error.name.split(".")[0] == "fgr_edge":
            raise
        raise MissingExtraError(
            f"{error.name} is not installed, this command needs it: pip install 'fgr-edge[{name}]'"
        ) from error


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    import json

    print(json.dumps(document, ensure_ascii=False, indent=2))
