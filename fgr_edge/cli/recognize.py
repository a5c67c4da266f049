"""`fgr-edge recognize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fgr_edge.cli.modes import Mode
from fgr_edge.cli.root import app, print_json
from fgr_edge.errors import ImageError

if TYPE_CHECKING:
    from fgr_edge.runtime.prediction import Prediction


@app.command()
def recognize(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    images: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, or - for stdin.")],
    labels: Annotated[Optional[Path], typer.Option(help="Class names: text, CSV, JSON or TOML.")] = None,
    mode: Annotated[Mode, typer.Option(help="Name at once, or think first.")] = Mode.direct,
    question: Annotated[Optional[str], typer.Option(help="Asked instead of the bundle's own.")] = None,
    think_budget: Annotated[Optional[int], typer.Option(help="Close the thought at so many tokens.")] = None,
    top_k: Annotated[int, typer.Option(help="Show so many labels.", min=1)] = 1,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,
    speculate: Annotated[bool, typer.Option(help="Guess tokens of a thought and check several at once.")] = True,
    fast_pictures: Annotated[
        bool, typer.Option("--fast-pictures", help="Open large pictures by shortcuts; pixels differ a little.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recognise pictures."""
    from fgr_edge.runtime.recognizer import Recognizer
    from fgr_edge.runtime.sources import pictures

    named = list(pictures(images))  # a folder without pictures is found before the model is loaded
    recognizer = Recognizer(bundle, labels, threads=threads, speculate=speculate, fast_pictures=fast_pictures)
    documents: list[dict[str, object]] = []
    if not json:
        print(f"{'picture':<40}  {'answer':<28}  {'p':>6}  {'time':>11}")
    for name, picture in named:
        try:
            found = recognizer(picture, mode=mode.value, question=question, think_budget=think_budget, top_k=top_k)
        except ImageError as error:
            # One bad picture does not cost the others their answers.
            message = str(error) if name in str(error) else f"{name}: {error}"
            documents.append({"image": name, "error": message})
            print(f"fgr-edge: {message}", file=sys.stderr)
            continue
        documents.append({"image": name, **found.to_json()})
        if not json:
            print(_answer(name, found, top_k), flush=True)
    if json:
        print_json(documents)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


def _answer(name: str, found: Prediction, top_k: int) -> str:
    """One picture's line, its other labels and its reasoning below."""
    label = found.label
    if label is None:
        label = {"outlier": "none of these", "unsure": "(unsure)", None: "(no answer)"}[found.abstained_because]
    elif found.level:
        label = f"{label} (any)"
    share = "" if found.probability is None else f"{found.probability:6.3f}"
    short = name if len(name) <= 40 else f"…{name[-39:]}"
    lines = [f"{short:<40}  {label:<28}  {share:>6}  {found.timings.total_ms:8.1f} ms"]
    others = found.top_k[:top_k] if found.abstained or found.level else found.top_k[1:top_k]
    lines += [f"{'':<40}  {other:<28}  {p:6.3f}" for other, p in others if top_k > 1]
    if found.reasoning:
        lines += [f"    {line}" for line in found.reasoning.splitlines()]
    return "\n".join(lines)
