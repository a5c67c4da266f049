"""The vision warm-up: the tower learns to see what a frozen teacher sees, the classes, and the birds' attributes.

In: the fresh model, the material and the teacher. Out: the model's vision tower, trained in place (weights averaged),
and the heads that were used, kept for the fine-tuning after it. Every epoch leaves a state to go on from.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fgr_edge.data.aviary import NAMES
from fgr_edge.training.material import Labelled, Material, attribute_table
from fgr_edge.training.optimizer import Average, MuonAdamW, learning_rate
from fgr_edge.training.progress import append_row, load_state, plot, save_state
from fgr_edge.training.recipe import Recipe, TeacherRecipe
from fgr_edge.training.teacher import SIZE, Features, Teacher
from fgr_edge.training.views import mix, normalise, random_views, shrink
from fgr_edge.training.vision_forward import encode

logger = logging.getLogger(__name__)

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as Qwen2-VL's image processor has them
STD = (0.26862954, 0.26130258, 0.27577711)


def generator(*parts: int) -> Generator:
    """A generator that depends on all of `parts`, so that an epoch is the same after a restart."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 17) % (2**63)
    return Generator().manual_seed(seed)


class Heads(nn.Module):
    """Linear read-outs of the tower, for training only."""

    def __init__(self, patch_dim: int, token_dim: int, classes: int) -> None:
        super().__init__()
        _, sizes = attribute_table()
        self.sizes = sizes
        self.middle_head = nn.Linear(patch_dim, 112)
        self.last_head = nn.Linear(token_dim, 320)
        self.pooled_head = nn.Linear(token_dim, 1280)
        self.class_head = nn.Linear(token_dim, classes)
        self.species_head = nn.Linear(token_dim, len(NAMES))
        self.attribute_head = nn.Linear(token_dim, sum(sizes))


def _map_loss(tokens: Tensor, target: Tensor, merge: int) -> Tensor:
    """Mean squared error of tokens [B, N, C], in blocks of `merge` squared, to a map [B, C, h, w] resized to fit."""
    b, n, c = tokens.shape
    side = round(n**0.5)
    target = F.interpolate(target, size=(side, side), mode="bilinear", align_corners=False)
    half = side // merge
    target = target.view(b, c, half, merge, half, merge).permute(0, 2, 4, 3, 5, 1).reshape(b, n, c)
    return F.mse_loss(tokens.float(), target)


def photo_loss(
    heads: Heads, tokens: Tensor, tapped: Tensor, seen: Features, soft: Tensor, hard: Tensor, coarse: Tensor,
    recipe: TeacherRecipe,
) -> Tensor:  # fmt: skip
    """Loss on photographs: the teacher's maps and soft labels [B, classes], and the true shares `hard` [B, classes].

    `coarse` [classes, coarse classes] is 1 where a class belongs to a coarse class.
    """
    pooled = tokens.mean(1)
    log_p = heads.class_head(pooled).float().log_softmax(-1)
    soft_target = (soft / recipe.temperature).softmax(-1)
    coarse_p = (log_p.exp() @ coarse).clamp(min=1e-6).log()
    loss: Tensor = (
        recipe.soft_labels * F.kl_div(log_p, soft_target, reduction="batchmean")
        - recipe.hard_labels * (hard * log_p).sum(-1).mean()
        - recipe.coarse_labels * ((hard @ coarse) * coarse_p).sum(-1).mean()
        + recipe.middle * _map_loss(heads.middle_head(tapped), seen.middle, 2)
        + recipe.last * _map_loss(heads.last_head(tokens), seen.last, 1)
        + recipe.pooled * F.mse_loss(heads.pooled_head(pooled).float(), seen.pooled)
    )
    return loss


def bird_loss(heads: Heads, tokens: Tensor, species: Tensor, table: Tensor, recipe: TeacherRecipe) -> Tensor:
    """Loss on drawings: the species, and each attribute (`table` [40, A]) of it."""
    pooled = tokens.mean(1)
    parts = torch.split(heads.attribute_head(pooled).float(), heads.sizes, -1)
    wanted = table[species]
    attributes = torch.stack([F.cross_entropy(part, wanted[:, a]) for a, part in enumerate(parts)]).mean()
    own = F.cross_entropy(heads.species_head(pooled).float(), species)
    return recipe.species * own + recipe.attributes * attributes


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of n photographs and then b drawings, and what is known of them."""

    pixels: Tensor  # [n + b, 3, S, S], normalised
    seen: Features  # the teacher's, of the photographs
    soft: Tensor  # [n, classes] the teacher's logits
    hard: Tensor  # [n, classes] true shares, mixtures counted
    species: Tensor  # [b] of the drawings


def draw_batch(
    recipe: Recipe, material: Material, teacher: Teacher, rows: Tensor, birds: Tensor, rng: Generator
) -> Batch:
    """Fresh views of photographs `rows` and drawings `birds`, the former under the teacher's eyes."""
    size = recipe.network.train_px
    views = random_views(material.photos.pictures, rows, SIZE, recipe.views, rng)
    views, partner, share = mix(views, recipe.views, rng)
    seen, soft = teacher.see(views)
    own = F.one_hot(material.photos.labels[rows], len(material.classes.fine)).float()
    hard = share * own + (1 - share) * own[partner]
    drawn = random_views(material.birds.pictures, birds, SIZE, recipe.bird_views, rng)
    pixels = normalise(torch.cat([shrink(views, size), shrink(drawn, size)]), MEAN, STD)
    return Batch(pixels, seen, soft, hard, material.birds.labels[birds])


def warm_up_loss(
    heads: Heads, tokens: Tensor, tapped: Tensor, batch: Batch, coarse: Tensor, table: Tensor, recipe: TeacherRecipe
) -> Tensor:
    """`photo_loss` of the photographs plus `bird_loss` of the drawings."""
    n = len(batch.soft)
    photos = photo_loss(heads, tokens[:n], tapped[:n], batch.seen, batch.soft, batch.hard, coarse, recipe)
    return photos + bird_loss(heads, tokens[n:], batch.species, table, recipe)


def prepare_teacher(recipe: Recipe, material: Material, folder: Path) -> Teacher:
    """The teacher with its standardisation and probe, fitted on views of the training photographs or read back."""
    teacher = Teacher(recipe.run.threads)
    classes = len(material.classes.fine)
    state = load_state(folder / "teacher.pt")
    if state is not None:
        teacher.scales = [(mean, std) for mean, std in state["scales"]]
        teacher.probe = nn.Linear(1280, classes).requires_grad_(False)
        teacher.probe.load_state_dict(state["probe"])
        return teacher
    start = time.monotonic()
    rng = generator(recipe.run.seed, 1)
    raw, labels = [], []
    for _ in range(recipe.teacher.probe_views):
        for rows in torch.split(torch.randperm(len(material.photos), generator=rng), 64):
            raw.append(teacher.raw(random_views(material.photos.pictures, rows, SIZE, recipe.views, rng)))
            labels.append(material.photos.labels[rows])
    teacher.standardise(raw[:: recipe.teacher.probe_views])
    mean, std = teacher.scales[2]
    pooled = (torch.cat([f.pooled for f in raw]) - mean) / std
    teacher.fit_probe(pooled, torch.cat(labels), classes, recipe.teacher.probe_decay)
    hits = 0
    for rows in torch.split(torch.arange(len(material.photos_val)), 64):
        logits = teacher.see(shrink(material.photos_val.pictures.pixels[rows].float(), SIZE))[1]
        hits += int((logits.argmax(-1) == material.photos_val.labels[rows]).sum())
    logger.info("teacher in %.0f s, val %.1f %%", time.monotonic() - start, 100 * hits / len(material.photos_val))
    save_state(folder / "teacher.pt", {"scales": teacher.scales, "probe": teacher.probe.state_dict()})
    return teacher


@torch.no_grad()
def head_accuracy(visual: nn.Module, head: nn.Module, data: Labelled, size: int) -> float:
    """Share of right answers of a linear read-out on whole pictures, 0..1."""
    hits = 0
    for rows in torch.split(torch.arange(len(data)), 64):
        pixels = normalise(shrink(data.pictures.pixels[rows].float(), size), MEAN, STD)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head(encode(visual, pixels)[0].mean(1))
        hits += int((logits.argmax(-1) == data.labels[rows]).sum())
    return hits / len(data)


class VisionStage:
    """The loop; `run` goes on from the last state in the run folder."""

    def __init__(self, recipe: Recipe, model: Any, material: Material, teacher: Teacher) -> None:
        self.recipe, self.material, self.teacher = recipe, material, teacher
        self.visual: nn.Module = model.model.visual
        torch.manual_seed(recipe.run.seed + 1)
        classes = material.classes
        self.heads = Heads(recipe.network.vision_hidden, recipe.network.hidden, len(classes.fine))
        self.both = nn.ModuleDict({"visual": self.visual, "heads": self.heads})
        self.coarse = F.one_hot(torch.tensor(classes.coarse_of), len(classes.coarse)).float()
        self.table, _ = attribute_table()
        self.steps_per_epoch = len(material.photos) // recipe.vision.batch
        self.state_path = recipe.run.folder / "vision.pt"
        self.curve = recipe.run.folder / "vision.csv"

    def run(self) -> Heads:
        """Train, leave the averaged weights in the tower and return the heads."""
        v = self.recipe.vision
        optimizer = MuonAdamW(self.both.named_parameters(), v.lr, v.weight_decay)
        average = Average(self.both, v.average_decay)
        first = 0
        state = load_state(self.state_path)
        if state is not None:
            self.both.load_state_dict(state["weights"])
            optimizer.load_state_dict(state["optimizer"])
            average.load_state_dict(state["average"])
            first = state["epoch"]
        for epoch in range(first, v.epochs):
            start = time.monotonic()
            loss = self._epoch(epoch, optimizer, average)
            average.swap(self.both)
            row = {"epoch": epoch + 1, "loss": round(loss, 4), **self.measure()}
            average.swap(self.both)
            row["seconds"] = round(time.monotonic() - start, 1)
            append_row(self.curve, row)
            logger.info("vision %s", row)
            save_state(self.state_path, {
                "epoch": epoch + 1, "weights": self.both.state_dict(), "optimizer": optimizer.state_dict(),
                "average": average.state_dict(),
            })  # fmt: skip
        plot(self.curve, ["loss", "val_use", "birds_val"], "vision warm-up")
        average.swap(self.both)
        return self.heads

    def measure(self) -> dict[str, float]:
        """Accuracy of the heads on the validation parts, in percent."""
        n, val = self.recipe.network, self.material.photos_val
        heads = self.heads
        return {
            "val_train_px": round(100 * head_accuracy(self.visual, heads.class_head, val, n.train_px), 2),
            "val_use": round(100 * head_accuracy(self.visual, heads.class_head, val, n.use_px), 2),
            "birds_val": round(
                100 * head_accuracy(self.visual, heads.species_head, self.material.birds_val, n.use_px), 2
            ),
        }

    def _epoch(self, epoch: int, optimizer: MuonAdamW, average: Average) -> float:
        v, total = self.recipe.vision, 0.0
        rng = generator(self.recipe.run.seed, 2, epoch)
        order = torch.randperm(len(self.material.photos), generator=rng)
        for number in range(self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + number
            rate = v.lr * learning_rate(step, v.epochs * self.steps_per_epoch, v.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order[number * v.batch : (number + 1) * v.batch]
            birds = torch.randint(len(self.material.birds), (v.aviary_batch,), generator=rng)
            loss = self._loss(rows, birds, rng)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
            optimizer.step()
            average.update(self.both)
            total += loss.item()
            if number % 10 == 0:
                logger.debug("epoch %d step %d loss %.3f", epoch, number, loss.item())
        return total / self.steps_per_epoch

    def _loss(self, rows: Tensor, birds: Tensor, rng: Generator) -> Tensor:
        teacher = self.recipe.teacher
        batch = draw_batch(self.recipe, self.material, self.teacher, rows, birds, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, tapped = encode(self.visual, batch.pixels, tap=teacher.tap_block)
            assert tapped is not None
            return warm_up_loss(self.heads, tokens, tapped, batch, self.coarse, self.table, teacher)
