"""Writing nano as a Hugging Face checkpoint: bfloat16 weights, tokenizer, processor, chat template, names.

The card is not written here: it carries measured figures and is kept by hand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fgr_edge.training.vision import MEAN, STD
from fgr_edge.training.vocabulary import image_limits


def image_processor(use_px: int) -> Any:
    """Qwen2-VL's image processor, set to pictures of about `use_px` squared."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    smallest, largest = image_limits(use_px)
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": smallest, "longest_edge": largest}, image_mean=list(MEAN), image_std=list(STD),
        patch_size=14, temporal_patch_size=2, merge_size=2, do_convert_rgb=True,
    )  # fmt: skip


def write_checkpoint(model: Any, tokenizer: Any, use_px: int, names: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Write everything but the card into `folder`; `names` are lists of class names by file stem."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {key: getattr(tokenizer, f"{key}_token_id") for key in ("eos", "pad")}
    model.generation_config.update(eos_token_id=ids["eos"], pad_token_id=ids["pad"], do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float()
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone
    tokenizer.save_pretrained(folder)
    _rewrite(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    smallest, largest = image_limits(use_px)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "do_resize": True, "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "resample": 3, "rescale_factor": 1 / 255,
        "image_mean": list(MEAN), "image_std": list(STD), "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, "min_pixels": smallest, "max_pixels": largest,
        "size": {"shortest_edge": smallest, "longest_edge": largest},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    for stem, list_of_names in names.items():
        (folder / f"{stem}.txt").write_text("\n".join(list_of_names) + "\n", encoding="utf-8")
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    table.update(changes)
    table.pop("backend", None)
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
