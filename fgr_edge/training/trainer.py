"""TRL's SFTTrainer with our batched forward: it brings the loop, checkpoints, resuming and logs; we bring the loss.

Private parts of TRL are touched (`compute_loss`), so its version is pinned in the extra.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from fgr_edge.training.objective import Objective
from fgr_edge.training.optimizer import Average, MuonAdamW, learning_rate
from fgr_edge.training.progress import plot, save_state


def collate(items: list[dict[str, int]]) -> dict[str, Tensor]:
    """Rows of photographs and of drawings."""
    return {
        "rows": torch.tensor([i["row"] for i in items if not i["bird"]], dtype=torch.long),
        "birds": torch.tensor([i["row"] for i in items if i["bird"]], dtype=torch.long),
    }


class NanoTrainer(SFTTrainer):
    """SFTTrainer whose loss is an `Objective`."""

    objective: Objective

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The objective's loss over one batch of rows."""
        return self.objective.loss(inputs["rows"], inputs["birds"])


class Keeper(TrainerCallback):
    """Averages the weights, and keeps what the trainer does not know: averages and heads."""

    def __init__(self, both: nn.Module, heads: nn.Module, decay: float) -> None:
        self.both, self.heads = both, heads
        self.average = Average(both, decay)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the new weights into the average."""
        self.average.update(self.both)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write averages and heads beside the trainer's checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_state(folder / "kept.pt", {"average": self.average.state_dict(), "heads": self.heads.state_dict()})

    def load(self, folder: Path) -> None:
        """Read back what `on_save` wrote."""
        state = torch.load(folder / "kept.pt", weights_only=True)
        self.average.load_state_dict(state["average"])
        self.heads.load_state_dict(state["heads"])


class Curve(TrainerCallback):
    """Writes the logged losses as CSV."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Rewrite the file from the trainer's history, so that a restart leaves no double rows."""
        rows = [r for r in state.log_history if "loss" in r]
        if not rows:
            return
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["epoch", "step", "loss", "learning_rate"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def run_stage(
    objective: Objective, tokenizer: Any, folder: Path, *, frozen: bool, epochs: int, lr: float, max_steps: int = -1
) -> None:
    """Fine-tune in place, with the vision tower frozen or not; goes on from the last checkpoint in `folder`.

    The averaged weights end up in the model. `max_steps` stops early, for tests.
    """
    recipe, model = objective.recipe, objective.model
    s = recipe.sft
    objective.frozen = frozen
    model.model.visual.requires_grad_(not frozen)
    both = nn.ModuleDict({"model": model} if frozen else {"model": model, "heads": objective.heads})
    optimizer = MuonAdamW(both.named_parameters(), lr, s.weight_decay)
    photos, birds = len(objective.material.photos), len(objective.material.birds)
    drawn = photos * s.aviary_batch // s.batch
    batch = s.batch + s.aviary_batch
    # The pool is larger than an epoch's share. Drawn by lot: its order goes through the species, so strides skip some.
    lot = torch.randperm(birds, generator=torch.Generator().manual_seed(recipe.run.seed)).tolist()
    chosen = [lot[k % birds] for k in range(drawn)]
    data = Dataset.from_dict({"bird": [0] * photos + [1] * drawn, "row": [*range(photos), *chosen]})
    steps = epochs * ((photos + drawn) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, s.warmup_steps))
    args = SFTConfig(
        output_dir=str(folder), num_train_epochs=epochs, max_steps=max_steps, per_device_train_batch_size=batch,
        dataloader_drop_last=True, dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        gradient_checkpointing=False, bf16=False, use_cpu=True, max_grad_norm=1.0, seed=recipe.run.seed % 2**31,
        logging_steps=10, logging_first_step=True, save_steps=max(1, max_steps),
        save_strategy="epoch" if max_steps < 0 else "steps",
        save_total_limit=2, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, max_length=None,
    )  # fmt: skip
    keeper = Keeper(both, objective.heads, s.average_decay)
    trainer = NanoTrainer(
        model=model, args=args, data_collator=collate, train_dataset=data, processing_class=tokenizer,
        optimizers=(optimizer, schedule), callbacks=[keeper, Curve(folder.with_suffix(".csv"))],
    )  # fmt: skip
    trainer.objective = objective
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is not None:
        keeper.load(Path(last))
    trainer.train(resume_from_checkpoint=last)
    plot(folder.with_suffix(".csv"), ["loss", "learning_rate"], folder.name)
    keeper.average.swap(both)
