"""`fgr-edge train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgr_edge.cli.root import app, extra

train_app = typer.Typer(no_args_is_help=True, help="Train a checkpoint with a recipe.")
app.add_typer(train_app, name="train")


@train_app.command("sft")
def train_sft(config: Annotated[Path, typer.Argument(help="Recipe, a TOML file.")]) -> None:
    """Supervised fine-tuning: vision warm-up, then text, as the recipe says."""
    with extra("train"):
        from fgr_edge.training.sft import run

        print(run(config))
