"""A random checkpoint fitted to a few prompts, so that it is as sure of the name that follows as a trained model is.

In: a folder that `random_checkpoint.py` wrote, labelled photographs, a bundle of a trained model. Out: a checkpoint
folder of the same shape, with `prompts.json` in it: the prompts, each a list of token ids. What the model says after
each of them is what the trained one says of one photograph: as sure of itself, and as unsure. Prompts are text, so that
every engine can be asked, those that run no pictures too; otherwise as `benchmarks/fitted_checkpoint.py`, whose fit
this is.

    python -m benchmarks.peers.fitted_prompts CHECKPOINT OUT --teacher BUNDLE --fit LIST [--prompts 30] [--tokens 300]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.fitted_checkpoint import Reader, copy_checkpoint, fit, one_of_each, save, teach
from benchmarks.label_names import names
from benchmarks.peers.transformers_eager import TransformersEager
from fgr_edge.data.labelled import read_labelled

PROMPTS_FILE = "prompts.json"


class Texts:
    """Stands in for transformers' side of `Reader`, whose inputs are then prompts instead of pictures."""

    def __init__(self, peer: TransformersEager) -> None:
        self.tokenizer = peer.tokenizer
        self.ids: list[int] = []

    def prepare(self, _: Path) -> dict[str, Any]:
        """The prompt that `ids` holds."""
        ids = torch.tensor([self.ids])
        return {
            "input_ids": ids,
            "mm_token_type_ids": torch.zeros_like(ids).int(),
            "pixel_values": None,
            "image_grid_thw": None,
        }


def make_prompts(tokenizer: Tokenizer, count: int, tokens: int) -> list[list[int]]:
    """Lists of names, each in an order of its own, cut at the wanted length."""
    known, rng = names(tokens), random.Random(0)
    prompts: list[list[int]] = []
    for _ in range(count):
        rng.shuffle(known)
        ids = tokenizer.encode("The classes are: " + ", ".join(known), add_special_tokens=False).ids
        prompts.append(ids[:tokens])
    return prompts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="bundle of a trained model")
    parser.add_argument("--fit", type=Path, required=True, help="photographs that the teacher is asked about")
    parser.add_argument("--labels", type=int, default=81, help="of `benchmarks/label_names.py`")
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=300, help="of a prompt")
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    copy_checkpoint(options.checkpoint, options.output)
    photographs, labels = one_of_each(read_labelled(options.fit)), names(options.labels)
    apart = max(1, len(photographs) // options.prompts)  # spread over the classes
    shares = teach(options.teacher, labels, photographs[::apart][: options.prompts])
    tokenizer = Tokenizer.from_file(str(options.output / "tokenizer.json"))
    prompts = make_prompts(tokenizer, len(shares), options.tokens)
    peer = TransformersEager(options.output, "fitted", options.threads)
    model: Any = peer._model.model
    texts = Texts(peer)
    reader = Reader(texts, model)  # type: ignore[arg-type]  # it asks for a tokenizer and inputs
    found = []
    for ids, share in zip(prompts, shares, strict=True):
        texts.ids = ids
        found.append(reader.example(options.output, labels, share))
    how = fit(model, found, options.epochs)
    save(model, options.output)
    (options.output / PROMPTS_FILE).write_text(json.dumps(prompts), encoding="utf-8")
    tops = sorted(round(float(share.max()), 2) for share in shares)
    print(json.dumps({"prompts": len(prompts), "prompt_tokens": options.tokens, "teacher_first_shares": tops, **how}))


if __name__ == "__main__":
    main()
