"""Draws birds that the model has never seen and recognises them: what `make demo` shows.

In: a bundle of models/nano, a folder for the drawings. Out: the drawings as PNG files and, on stdout, truth
beside answer with the time each took; then one bird with its reasoning. Needs what a device has, no download.

    python examples/demo.py out/nano-int8 out/birds --count 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fgr_edge import Recognizer
from fgr_edge.data.aviary import HELD_OUT_SEEDS, SPECIES
from fgr_edge.data.aviary_drawing import draw


def draw_birds(folder: Path, count: int) -> list[tuple[str, Path]]:
    """Draws `count` birds, species spread over the aviary, held-out seeds; returns their names and files."""
    folder.mkdir(parents=True, exist_ok=True)
    birds = []
    for number in range(count):
        species = SPECIES[number * len(SPECIES) // count]
        path = folder / f"{number + 1:02d}.png"
        draw(species, HELD_OUT_SEEDS[-1 - number]).save(path)
        birds.append((species.name, path))
    return birds


def show_answers(console: Console, recognizer: Recognizer, birds: list[tuple[str, Path]]) -> None:
    """One line a bird, in direct mode."""
    table = Table("drawing", "truth", "answer", "", "ms", title="direct mode")
    right = 0
    for truth, path in birds:
        found = recognizer(path, mode="direct")
        right += found.label == truth
        mark = "[green]right[/]" if found.label == truth else "[red]wrong[/]"
        table.add_row(path.name, truth, found.label or "(no answer)", mark, f"{found.timings.total_ms:.0f}")
    console.print(table)
    console.print(f"{right} of {len(birds)} right")


def show_reasoning(console: Console, recognizer: Recognizer, truth: str, path: Path) -> None:
    """One bird, in reason mode."""
    found = recognizer(path, mode="reason")
    console.print(f"\n[bold]reason mode, {path.name}[/] (truth: {truth})")
    console.print(found.reasoning or "(no reasoning)", markup=False)
    timings = found.timings
    seconds = f"{timings.generated_tokens} tokens in {timings.total_ms:.0f} ms"
    console.print(f"[bold]answer: {found.label or '(no answer)'}[/], {seconds}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="where the drawings go")
    parser.add_argument("--count", type=int, default=6, choices=range(1, len(SPECIES) + 1), metavar="N")
    arguments = parser.parse_args()
    birds = draw_birds(arguments.folder, arguments.count)
    console = Console(highlight=False)
    recognizer = Recognizer(arguments.bundle)
    show_answers(console, recognizer, birds)
    show_reasoning(console, recognizer, *birds[0])


if __name__ == "__main__":
    main()
