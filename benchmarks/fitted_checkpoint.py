"""A random checkpoint fitted to a few photographs, so that it is as sure of their names as a trained model is.

In: a folder that `random_checkpoint.py` wrote (Qwen2.5-VL, one file, with a tokenizer), two lists of labelled
photographs, a bundle of a trained model. Out: a checkpoint folder of the same shape; `fitted.csv` and `others.csv` in
it name one photograph a class that it was fitted to, and one that it never saw; the last line printed is JSON.

What random weights cannot show is what best-first scoring saves: every first token is as likely as any other, so no
name can be left out. The names of each photograph get the probabilities that the trained model gives them: as sure of
itself, and as unsure, as that one is. Fitting the last decoder layer and the final norm is enough for that, and takes
minutes: the hidden states before them are computed once, and only the rows that predict a name's tokens go through the
rest. The model knows these photographs by heart and nothing else: what it says of others means nothing.

Photographs are enlarged to `MIN_PIXELS`, for prompts of about 300 tokens.

    python -m benchmarks.fitted_checkpoint CHECKPOINT OUT --teacher BUNDLE --fit LIST --others LIST [--epochs 160]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from benchmarks.peers.transformers_eager import TransformersEager
from fgr_edge import Recognizer
from fgr_edge.data.labelled import LabelledPicture, read_labelled
from fgr_edge.runtime.label_trie.trie import LabelTrie

MIN_PIXELS = 200_000  # 16 x 16 picture tokens of 28 x 28, where the photograph is square
SMALLEST_SHARE = 0.005  # names that the teacher finds less likely are left to chance
LEARNING_RATE = 1e-3
BATCH = 16  # photographs
SAMPLED = 2048  # tokens that stand for the rest of the vocabulary while fitting: the head is most of the work
CLOSING = "<|im_end|>"

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """What the last layer reads of one photograph: its prompt, then the inner nodes of a trie of names.

    Attributes:
        hidden: [S, H] float32. rotary: cos and sin [1, S, D].
        sees: [R, S], what the last R rows attend to: the prompt's last, and those of the names.
        rows: [E], for each edge of the trie the row, of those R, that predicts it; tokens: [E], its token.
        shares: [E], of the names beyond it. entropy: of the shares of all names.
    """

    hidden: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]
    sees: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor
    shares: torch.Tensor
    entropy: float


def one_of_each(pictures: Sequence[LabelledPicture]) -> list[LabelledPicture]:
    """The first photograph of each class, in the source's order."""
    found: dict[str, LabelledPicture] = {}
    for picture in pictures:
        found.setdefault(picture.label, picture)
    return list(found.values())


def copy_checkpoint(source: Path, output: Path) -> None:
    """Everything, with pictures that are large enough."""
    output.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.copyfile(path, output / path.name)
    file = output / "preprocessor_config.json"
    numbers = json.loads(file.read_text(encoding="utf-8"))
    numbers |= {"min_pixels": MIN_PIXELS, "max_pixels": max(MIN_PIXELS, numbers["max_pixels"])}
    file.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def write_list(path: Path, pictures: Sequence[LabelledPicture]) -> None:
    """In a layout that `read_labelled` reads."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("path", "label"), *((picture.path.resolve(), picture.label) for picture in pictures)])


def teach(bundle: Path, names: Sequence[str], pictures: Sequence[LabelledPicture]) -> list[Shares]:
    """What the trained model thinks: for each photograph the share [C] of each name."""
    recognizer = Recognizer(bundle, names, threads=1)
    found = []
    for picture in pictures:
        log_probs = recognizer.evidence(picture.path).log_probs
        shares = np.exp(log_probs - log_probs.max())
        found.append(shares / shares.sum())
    return found


class Reader:
    """Reads photographs and names as transformers does, up to the last layer."""

    def __init__(self, peer: TransformersEager, model: Any) -> None:
        self._peer = peer
        self._model = model
        self._closing = peer.tokenizer.convert_tokens_to_ids(CLOSING)
        self._seen: dict[str, Any] = {}
        model.language_model.layers[-1].register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self._seen.update(given, hidden_states=args[0] if args else given["hidden_states"])

    def example(self, picture: Path, names: Sequence[str], shares: Shares) -> Example:
        """Prompt and names in one pass: each node of their trie sees the prompt and its own ancestors."""
        kept = np.flatnonzero(shares >= SMALLEST_SHARE)
        shares = shares[kept] / shares[kept].sum()
        sequences = [
            [*self._peer.tokenizer(names[i], add_special_tokens=False)["input_ids"], self._closing]
            for i in kept.tolist()
        ]
        trie = LabelTrie.build(sequences, [names[i] for i in kept.tolist()])
        inputs = self._peer.prepare(picture)
        prompt = inputs["input_ids"].shape[1]
        sees = tree_mask(trie, prompt)
        self._read(inputs, trie, sees)
        reach = np.zeros(len(trie))
        reach[trie.leaf_of] = shares
        for level in trie.levels[::-1]:
            np.add.at(reach, trie.parents[level], reach[level])
        row_of = np.full(len(trie), -1)
        row_of[[0, *trie.inner]] = np.arange(1 + len(trie.inner))
        cos, sin = self._seen["position_embeddings"]
        return Example(
            hidden=self._seen["hidden_states"][0].clone(),  # tensors of inference mode are barred from training
            rotary=(cos.clone(), sin.clone()),
            sees=sees[prompt - 1 :],
            rows=torch.from_numpy(row_of[trie.parents[1:]]),
            tokens=torch.from_numpy(trie.tokens[1:]),
            shares=torch.from_numpy(reach[1:]).float(),
            entropy=float(-(shares * np.log(shares)).sum()),
        )

    def _read(self, inputs: dict[str, Any], trie: LabelTrie, sees: torch.Tensor) -> None:
        """One pass over prompt and trie; the hook keeps what reaches the last layer."""
        ids, kinds = inputs["input_ids"], inputs["mm_token_type_ids"]
        positions, _ = self._model.get_rope_index(ids, kinds, image_grid_thw=inputs["image_grid_thw"])
        below = int(positions.max()) + torch.from_numpy(trie.depths[trie.inner])
        added = torch.from_numpy(trie.tokens[trie.inner])[None]
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]
        with torch.inference_mode():
            self._model(
                input_ids=torch.cat([ids, added], dim=1),
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
                position_ids=torch.cat([positions, below.expand(3, 1, -1)], dim=2),
                attention_mask={"full_attention": mask, "sliding_attention": mask},
                use_cache=False,
            )


def tree_mask(trie: LabelTrie, prompt: int) -> torch.Tensor:
    """[S, S], S of prompt and inner nodes: the prompt is causal, a node sees it, its ancestors and itself."""
    place = {0: prompt - 1} | {int(node): prompt + i for i, node in enumerate(trie.inner)}
    sees = torch.ones(prompt + len(trie.inner), prompt + len(trie.inner), dtype=torch.bool).tril()
    sees[prompt:, prompt:] = False
    for node in trie.inner.tolist():  # parents first
        row = place[node]
        sees[row] = sees[place[int(trie.parents[node])]]
        sees[row, row] = True
    return sees


def last_layer(layer: Any, found: Sequence[Example]) -> torch.Tensor:
    """What the layer makes of the rows that predict, one example's after another's: [R, H]."""
    attention = layer.self_attn
    lengths, counts = [len(example.hidden) for example in found], [len(example.sees) for example in found]
    before = torch.cat([example.hidden[-count:] for example, count in zip(found, counts, strict=True)])
    normed = layer.input_layernorm(torch.cat([example.hidden for example in found]))
    mixed = [
        attend(attention.head_dim, query, key, value, example)
        for query, key, value, example in zip(
            attention.q_proj(layer.input_layernorm(before)).split(counts),
            attention.k_proj(normed).split(lengths),
            attention.v_proj(normed).split(lengths),
            found,
            strict=True,
        )
    ]
    after = before + attention.o_proj(torch.cat(mixed))
    rows: torch.Tensor = after + layer.mlp(layer.post_attention_layernorm(after))
    return rows


def attend(width: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, example: Example) -> torch.Tensor:
    """Attention of the last R of S tokens: query [R, heads * width], key and value [S, kv_heads * width]."""
    count, (cos, sin) = len(query), example.rotary
    q, k, v = (rows.view(1, len(rows), -1, width).transpose(1, 2) for rows in (query, key, value))
    q, _ = apply_rotary_pos_emb(q, q, cos[:, -count:], sin[:, -count:])
    k, _ = apply_rotary_pos_emb(k, k, cos, sin)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=example.sees, enable_gqa=True)
    return mixed.transpose(1, 2).reshape(count, -1)


def divergences(language: Any, found: Sequence[Example], known: torch.Tensor) -> torch.Tensor:
    """For each photograph the divergence, in nats, of the model's names from the teacher's.

    Args:
        known: tokens of all names, sorted; a new sample of others stands for the rest of the vocabulary.
    """
    head = language.embed_tokens.weight  # tied
    sample = torch.randint(len(head), (SAMPLED,))
    tokens = torch.cat([known, sample[~torch.isin(sample, known)]])
    logits = language.norm(last_layer(language.layers[-1], found)) @ head[tokens].T
    each = torch.zeros(len(tokens))
    each[len(known) :] = math.log((len(head) - len(known)) / (len(tokens) - len(known)))
    log_probs = torch.log_softmax(logits + each, dim=1)
    losses, start = [], 0
    for example in found:
        edges = log_probs[start + example.rows, torch.searchsorted(known, example.tokens)]
        losses.append(-(example.shares * edges).sum() - example.entropy)
        start += len(example.sees)
    return torch.stack(losses)


def fit(model: Any, found: Sequence[Example], epochs: int) -> dict[str, float]:
    """Train, the rate falling to nothing; how far from the teacher the last epoch was."""
    language = model.language_model
    model.requires_grad_(False)
    trained = [*language.layers[-1].parameters(), *language.norm.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    adam = torch.optim.Adam(trained, lr=LEARNING_RATE, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, epochs)
    known, mean = torch.cat([example.tokens for example in found]).unique(), math.nan
    for epoch in range(epochs):
        total = 0.0
        for part in torch.randperm(len(found)).split(BATCH):
            values = divergences(language, [found[i] for i in part.tolist()], known)
            total += float(values.detach().sum())
            adam.zero_grad()
            torch.autograd.backward(values.mean())
            adam.step()
        rate.step()
        mean = total / len(found)
        print(f"epoch {epoch}: {mean:.3f} nats from the teacher", flush=True)
    return {"epochs": epochs, "nats": round(mean, 4)}


def save(model: Any, output: Path) -> None:
    """Put what was trained in the place of what was random."""
    file = output / "model.safetensors"
    tensors, layers = load_file(file), model.language_model.layers
    prefix = f"model.layers.{len(layers) - 1}."
    trained = {prefix + name: value for name, value in layers[-1].state_dict().items()}
    trained |= {f"model.norm.{name}": value for name, value in model.language_model.norm.state_dict().items()}
    tensors |= {name: value.to(tensors[name].dtype) for name, value in trained.items()}
    save_file(tensors, file, {"format": "pt"})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="bundle of a trained model")
    parser.add_argument("--fit", type=Path, required=True, help="photographs to fit to; one of each class is taken")
    parser.add_argument("--others", type=Path, required=True, help="photographs to leave alone; one of each class")
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    copy_checkpoint(options.checkpoint, options.output)
    fitted, others = (one_of_each(read_labelled(source)) for source in (options.fit, options.others))
    write_list(options.output / "fitted.csv", fitted)
    write_list(options.output / "others.csv", others)
    names = [picture.label for picture in fitted]
    shares = teach(options.teacher, names, fitted)
    peer = TransformersEager(options.output, "fitted", options.threads)
    model: Any = peer._model.model
    reader, start = Reader(peer, model), time.process_time()
    found = [reader.example(picture.path, names, share) for picture, share in zip(fitted, shares, strict=True)]
    cached = time.process_time()
    how = fit(model, found, options.epochs)
    save(model, options.output)
    tops = [float(share.max()) for share in shares]
    document = {
        "photographs": len(fitted),
        "prompt_tokens": sorted({len(example.hidden) - len(example.sees) + 1 for example in found}),
        "teacher_first_share": {"mean": round(float(np.mean(tops)), 3), "p50": round(float(np.median(tops)), 3)},
        **how,
        "cpu_seconds": {"hidden_states": round(cached - start), "fit": round(time.process_time() - cached)},
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
