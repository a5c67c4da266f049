"""The whole recipe, miniature: it runs, resumes, and leaves a checkpoint that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("efficientnet_lite_pytorch")


@pytest.mark.slow
def test_recipe_trains_resumes_and_leaves_a_checkpoint_that_transformers_loads(
    small_recipe: Path, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    from fgr_edge.training.sft import run

    output = run(small_recipe)
    first = Qwen2_5_VLForConditionalGeneration.from_pretrained(output, dtype=torch.float32)
    assert json.loads((tmp_path / "run" / "val.json").read_text())["grocery_val"]["direct"]["answered"] == 1.0
    assert (tmp_path / "run" / "vision.csv").is_file() and (tmp_path / "run" / "joint.csv").is_file()

    # Cut off in the middle of the last stage, it goes on from there to the same weights.
    halfway, last = sorted((tmp_path / "run" / "joint").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert halfway.is_dir()
    shutil.rmtree(last)
    shutil.rmtree(output)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(run(small_recipe), dtype=torch.float32)
    for (name, a), (_, b) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3), name

    tokenizer = AutoTokenizer.from_pretrained(output)
    text = "<think>Äpfel</think> <answer>Royal Gala</answer>"
    assert tokenizer.decode(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id], skip_special_tokens=True) == text
    processor = AutoImageProcessor.from_pretrained(output)
    assert processor.patch_size == 14
    assert (output / "labels_grocery.txt").read_text().splitlines() == ["Royal Gala", "Granny Smith", "Kiwi"]
