"""`fgr-edge train sft`: from a recipe to a finished tiny model.

Stages: vocabulary, vision warm-up under a frozen teacher, fine-tuning with the tower frozen, fine-tuning of
everything. Each leaves its state in the run folder; started again, the run goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgr_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from fgr_edge.training.material import Material
    from fgr_edge.training.recipe import Recipe

logger = logging.getLogger(__name__)


def run(config_path: Path) -> Path:
    """Run every stage of the recipe and write the checkpoint.

    Returns:
        The folder of the finished checkpoint.

    Raises:
        ConfigError: the recipe is not usable.
        DataError: the photographs are not where the recipe says.
        MissingExtraError: a package of the `train` extra is absent.
    """
    from fgr_edge.training.recipe import read_recipe

    recipe = read_recipe(config_path)
    try:
        import datasets  # noqa: F401
        import torch
        import transformers  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'fgr-edge[train,cpu]'") from error
    torch.set_num_threads(recipe.run.threads)
    return _run(recipe)


def _run(recipe: Recipe) -> Path:
    from fgr_edge.training.checkpoint import write_checkpoint
    from fgr_edge.training.material import load_material
    from fgr_edge.training.network import build_config, build_model
    from fgr_edge.training.objective import Objective
    from fgr_edge.training.trainer import run_stage
    from fgr_edge.training.vision import VisionStage, prepare_teacher
    from fgr_edge.training.vocabulary import special_ids, train_tokenizer
    from fgr_edge.training.wording import bird_answers, corpus, grocery_answers

    start, s, folder = time.monotonic(), recipe.sft, recipe.run.folder
    # 1. What is learned from, and the words it is said in.
    material = load_material(recipe.data, recipe.run.threads)
    groups = (grocery_answers(material.classes), bird_answers())
    tokenizer = train_tokenizer(corpus(groups), recipe.network.vocabulary)
    config = build_config(recipe.network, recipe.network.vocabulary, special_ids(tokenizer))
    model = build_model(config, recipe.run.seed)
    # 2. The tower.
    teacher = prepare_teacher(recipe, material, folder)
    stage = VisionStage(recipe, model, material, teacher)
    heads = stage.run()
    logger.info("vision warm-up done after %.0f s: %s", time.monotonic() - start, stage.measure())
    # 3. The decoder, then everything.
    objective = Objective(recipe, model, heads, material, teacher, tokenizer)
    run_stage(objective, tokenizer, folder / "frozen", frozen=True, epochs=s.frozen_epochs, lr=s.frozen_lr)
    logger.info("frozen done after %.0f s: %s", time.monotonic() - start, validate(recipe, model, tokenizer, material))
    names = {"labels_grocery": groups[0].names, "labels_aviary": groups[1].names}
    write_checkpoint(model, tokenizer, recipe.network.use_px, names, folder / "frozen-checkpoint")
    run_stage(objective, tokenizer, folder / "joint", frozen=False, epochs=s.joint_epochs, lr=s.joint_lr)
    # 4. The checkpoint, and how good it is on what was never trained on.
    write_checkpoint(model, tokenizer, recipe.network.use_px, names, recipe.run.output)
    figures = validate(recipe, model, tokenizer, material)
    (folder / "val.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    logger.info("%s finished after %.0f s: %s", recipe.run.output, time.monotonic() - start, figures)
    return recipe.run.output


def validate(recipe: Recipe, model: Any, tokenizer: Any, material: Material) -> dict[str, dict[str, Any]]:
    """Direct and reasoned accuracy on the validation photographs and drawings."""
    from PIL import Image

    from fgr_edge.data.aviary import NAMES
    from fgr_edge.data.grocery import read_split
    from fgr_edge.training.checkpoint import image_processor
    from fgr_edge.training.evaluate import Examiner, named_answer, score

    examiner = Examiner(model.eval(), tokenizer, image_processor(recipe.network.use_px))
    photos = [Image.open(row.path) for row in read_split(recipe.data.grocery, "val")]
    birds = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in material.birds_val.pictures.pixels]
    classes = material.classes
    figures: dict[str, dict[str, Any]] = {}
    for key, images, names, labels, coarse_of in (
        ("grocery_val", photos, classes.fine, material.photos_val.labels.tolist(), classes.coarse_of),
        ("aviary_val", birds, NAMES, material.birds_val.labels.tolist(), None),
    ):
        direct = examiner.direct(images, names)
        reasoned = [named_answer(text) for text in examiner.reason(images)]
        figures[key] = {
            "direct": asdict(score(direct, labels, names, coarse_of)),
            "reason": asdict(score(reasoned, labels, names, coarse_of)),
            "agree": sum(a == b for a, b in zip(direct, reasoned, strict=True)) / len(direct),
        }
    model.train()
    return figures
