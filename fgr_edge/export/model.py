"""An opened checkpoint with its family, dimensions and weights by role: what every stage of an export works on.

In: a `Checkpoint`, with overlays or without. Out: a `Model`, in which all that can be wrong without reading a weight
has been found. It writes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fgr_edge.errors import CheckpointError
from fgr_edge.export import settings
from fgr_edge.export.architectures import DecoderDims, Family, VisionDims, family_of
from fgr_edge.export.checkpoint import Checkpoint, LazyTensor, same_values
from fgr_edge.export.stored_names import HEAD_NAMES, head_name
from fgr_edge.export.weights import Matrix, Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint as export sees it.

    Attributes:
        embedding: [V, H], looked up by token.
        head: the output projection [V, H]; the embedding where it is tied.
    """

    checkpoint: Checkpoint
    family: Family
    decoder_dims: DecoderDims
    vision_dims: VisionDims
    decoder: Weights
    vision: Weights
    embedding: LazyTensor
    head: Matrix

    def units(self) -> list[str]:
        """Layers and blocks with weights of their own, in the order of computation; see `Matrix.unit`."""
        vision, blocks = self.vision, range(self.vision_dims.depth)
        mergers = range(len(self.vision_dims.deepstack_blocks))
        return [
            vision.unit("patch"),
            *(vision.unit("qkv", block) for block in blocks),
            *(vision.unit("deepstack_fc1", merger) for merger in mergers),
            vision.unit("merger_fc1"),
            *(self.decoder.unit("q", layer) for layer in range(self.decoder_dims.layers)),
            self.head.unit,
        ]


def open_model(checkpoint: Checkpoint) -> Model:
    """Find the checkpoint's family and its weights.

    Raises:
        CheckpointError: no family supports it, or config.json and weights do not fit each other.
    """
    family = family_of(checkpoint.config)
    with settings.reading(checkpoint.path / "config.json"):
        decoder_dims, vision_dims = family.decoder_dims(checkpoint.config), family.vision_dims(checkpoint.config)
    if vision_dims.out_hidden != decoder_dims.hidden:
        raise CheckpointError(
            f"vision tower gives tokens of width {vision_dims.out_hidden}, the decoder takes {decoder_dims.hidden}; "
            "check out_hidden_size and hidden_size in config.json"
        )
    decoder = Weights(checkpoint, family.decoder_prefixes, family.decoder_names, "embedding", "decoder")
    vision = Weights(checkpoint, family.vision_prefixes, family.vision_names, "patch", "vision")
    embedding = decoder.tensor("embedding", (decoder_dims.vocab, decoder_dims.hidden))
    head = Matrix("lm_head", (_head(checkpoint, embedding),), decoder_dims.hidden, "head", "head")
    return Model(checkpoint, family, decoder_dims, vision_dims, decoder, vision, embedding, head)


def _head(checkpoint: Checkpoint, embedding: LazyTensor) -> LazyTensor:
    """The output projection: a stored head, unless it only repeats the embedding."""
    config = checkpoint.config
    text = config.get("text_config") or {}
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    stored = head_name(checkpoint)
    if stored is None:
        if not tied:
            raise CheckpointError(
                f"{checkpoint.path} holds no {HEAD_NAMES[0]!r} and config.json does not tie it to the embedding "
                "(tie_word_embeddings); expected one or the other"
            )
        return embedding
    head = checkpoint.tensor(stored, embedding.shape)
    if same_values(head, embedding):
        log.info("%s repeats the embedding and is dropped (%.0f MB)", stored, head.nbytes / 1e6)
        return embedding
    if tied:
        log.warning("%s differs from the embedding although config.json ties them; the stored head is used", stored)
    return head
