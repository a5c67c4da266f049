"""Model and plan to bundle: one pass over the weights, streamed, into a folder that is whole or absent.

Stages: everything checked; embedding table and graphs; tokenizer, labels, manifest. Knows nothing of calibration or
proof: `pipeline` does, and calls this for the original and for every candidate.
"""

from __future__ import annotations

import logging
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from fgr_edge import __version__
from fgr_edge.calibrate.plan import Plan
from fgr_edge.errors import CheckpointError, EngineError
from fgr_edge.export import settings
from fgr_edge.export.chat import prompt_spec
from fgr_edge.export.checkpoint import LazyTensor
from fgr_edge.export.graphs.decoder import build_decoder, decoder_weights
from fgr_edge.export.graphs.head import build_head, build_screen
from fgr_edge.export.graphs.vision import build_vision, vision_weights
from fgr_edge.export.model import Model
from fgr_edge.export.progress import Step, progress_bar
from fgr_edge.export.screen import screen_part, screen_plan, write_norms
from fgr_edge.export.targets import Target
from fgr_edge.export.weight_file import WeightFile
from fgr_edge.export.weights import CHUNK_VALUES
from fgr_edge.runtime.bundle import LABELS, TOKENIZER, sha256_of
from fgr_edge.runtime.bundle_writer import BundleWriter
from fgr_edge.runtime.head import SCREEN_NORMS
from fgr_edge.runtime.label_trie.label_scorer import compile_frames
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import PromptBuilder, PromptSpec
from fgr_edge.runtime.stored_labels import StoredLabels

log = logging.getLogger(__name__)

IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What a bundle gets besides the weights.

    Attributes:
        source: where the checkpoint came from, as the user wrote it.
        checkpoint_digest: of the original, before any scale was moved (`Checkpoint.digest`).
        labels: class names to store; None stores none.
        image_size: (width, height); pictures are resized to at most so many pixels.
        provenance: further facts for the manifest (adapter, calibration, ...).
        screened: whether the head gets a coarse copy for greedy decoding (see `runtime/screen.py`); None where it pays.
        quiet: no progress bar.
        title: of the progress bar.
    """

    source: str
    checkpoint_digest: str
    labels: LabelSet | None = None
    image_size: tuple[int, int] | None = None
    provenance: Mapping[str, Any] | None = None
    screened: bool | None = False
    quiet: bool = False
    title: str = "export"


def write_bundle(
    model: Model, target: Target, plan: Plan, output: Path, options: BundleOptions, *, force: bool = False
) -> Path:
    """Write one bundle and return its folder.

    Raises:
        CheckpointError: a tensor is missing or of the wrong shape; nothing was written.
        OutputExistsError: the output exists and `force` is not set.
        StorageError: the disk is full or not writable.
        LabelError, ConfigError: an option cannot be used.
    """
    started = time.perf_counter()
    screen = screen_plan(model.head, target, plan, options.screened)
    # 1. Everything that can be wrong with the checkpoint is found before a byte is written.
    _build_graphs(None, model, target, plan, screen, lambda _: None)
    manifest = _manifest(model, target, plan, options) | ({} if screen is None else {"screen": screen_part(screen)})
    # 2. Weights, streamed. The embedding keeps its stored precision: it is read by rows and costs no bandwidth.
    table = model.decoder_dims.vocab * model.decoder_dims.hidden
    total = table + decoder_weights(model.decoder_dims) + vision_weights(model.vision_dims)
    total += 0 if screen is None else 2 * table
    with BundleWriter(output, force=force) as bundle:
        with progress_bar(f"{options.title} {plan.decoder.name}", total, quiet=options.quiet) as step:
            _write_embedding(model.embedding, bundle.folder / "embedding.bin", step)
            _build_graphs(bundle.folder, model, target, plan, screen, step)
            if screen is not None:
                write_norms(model.head, screen, bundle.folder / SCREEN_NORMS, step)
        _check_graphs(bundle.folder)
        # 3. What travels along.
        shutil.copyfile(model.checkpoint.tokenizer_path, bundle.folder / TOKENIZER)
        if options.labels is not None:
            _write_labels(bundle.folder, options.labels, manifest)
        bundle.manifest = manifest
    log.info("bundle %s written in %.1f s", output, time.perf_counter() - started)
    return output


def check_tensors(model: Model, target: Target, plan: Plan) -> None:
    """Find out, without reading a weight, whether every tensor is there and has its shape.

    Raises:
        CheckpointError: names the tensor.
    """
    _build_graphs(None, model, target, plan, None, lambda _: None)


def _build_graphs(
    folder: Path | None, model: Model, target: Target, plan: Plan, screen: Plan | None, step: Step
) -> None:
    """All graphs; with a screen the head is a graph of its own, and its coarse copy another."""
    dialect = target.dialect(plan)
    build_vision(folder, model.vision_dims, model.vision, dialect, step)
    apart = target.split_head or screen is not None
    build_decoder(folder, model.decoder_dims, model.decoder, None if apart else model.head, dialect, step)
    if apart:
        build_head(folder, model.head, dialect, step)
    if screen is not None:
        build_screen(folder, model.head, target.dialect(screen), step)


def _manifest(model: Model, target: Target, plan: Plan, options: BundleOptions) -> dict[str, Any]:
    checkpoint, family = model.checkpoint, model.family
    tokenizer = _tokenizer(checkpoint.tokenizer_path)
    dialect = target.dialect(plan)
    prompt = prompt_spec(checkpoint.chat_template() or family.chat_template, IMAGE_TOKEN)
    image = settings.image_config(checkpoint, family, model.vision_dims, options.image_size)
    rows, columns = model.embedding.shape
    return {
        "family": family.name,
        "name": checkpoint.path.name,
        "target": target.name,
        "dialect": dialect.name,
        "opset": dialect.opset_imports[""],
        "precision": {**plan.names(), "embedding": model.embedding.dtype},
        "decoder": asdict(
            settings.decoder_spec(model.decoder_dims, dialect.cache_dtype, tree_attention=dialect.tree_attention)
        ),
        "vision": asdict(settings.vision_spec(model.vision_dims)),
        "widths": settings.widths(model.decoder_dims, model.vision_dims),
        "image": asdict(image),
        "prompt": asdict(prompt),
        "generation": settings.generation(checkpoint, family, tokenizer),
        "embedding": {"dtype": model.embedding.dtype, "rows": rows, "columns": columns},
        "provenance": {
            "source": options.source,
            "checkpoint_digest": options.checkpoint_digest,
            "fgr_edge": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "calibration_digest": None,
            "kept": {unit: scheme.name for unit, scheme in plan.kept.items()},
            **(options.provenance or {}),
        },
    }


def _tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise CheckpointError(f"{path} is no tokenizer ({error}); download the checkpoint again") from error
    if tokenizer.token_to_id(IMAGE_TOKEN) is None:
        raise CheckpointError(f"{path} has no token {IMAGE_TOKEN!r}; expected the tokenizer of a vision-language model")
    return tokenizer


def _write_labels(folder: Path, labels: LabelSet, manifest: Mapping[str, Any]) -> None:
    """Write labels.json, compiled, beside the tokenizer.json that its token ids belong to."""
    prompts = PromptBuilder(folder / TOKENIZER, PromptSpec(**manifest["prompt"]))
    compiled = compile_frames(labels, prompts.encode_text, manifest["generation"]["eos_token_ids"][0])
    stored = StoredLabels(labels, compiled)
    (folder / LABELS).write_text(stored.to_json(sha256_of(folder / TOKENIZER)), encoding="utf-8")


def _write_embedding(table: LazyTensor, path: Path, step: Step) -> None:
    rows, columns = table.shape
    chunk = max(1, CHUNK_VALUES // columns)

    def chunks() -> Iterator[npt.NDArray[Any]]:
        for start in range(0, rows, chunk):
            stop = min(start + chunk, rows)
            yield table.raw_rows(start, stop)
            step((stop - start) * columns)

    with WeightFile(path) as file:
        file.append(chunks())


def _check_graphs(folder: Path) -> None:
    import onnx

    for name in sorted(path.name for path in folder.glob("*.onnx")):
        try:
            onnx.checker.check_model(str(folder / name))
        except onnx.checker.ValidationError as error:
            raise EngineError(
                f"{name} does not pass ONNX's checker: {error}; this is a defect of fgr-edge, please report it"
            ) from error
