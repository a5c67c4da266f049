"""The model of one bundle, open: a picture and tokens in, logits out.

Knows no labels and no answers; those are `recognizer.py`'s. Its parts are public, for who takes them one by one:
verification and benchmarks, which measure what runs, not parts of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.bundle import TOKENIZER, Bundle
from fgr_edge.runtime.decoder import Decoder, DecoderSpec
from fgr_edge.runtime.feed import picture_feed
from fgr_edge.runtime.head import LazyLogits, open_head
from fgr_edge.runtime.image import ImageConfig, ImageInput, Patches
from fgr_edge.runtime.known_prefix import KnownPrefix
from fgr_edge.runtime.opening import Device, open_graphs
from fgr_edge.runtime.pictures.shortcuts import read_patches
from fgr_edge.runtime.prompt import Prompt, PromptBuilder, PromptSpec
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.session import Session
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.vision import ImageEmbeds, VisionEncoder, VisionSpec

Floats = npt.NDArray[np.float32]


class TextModel:
    """The decoder and the tables of a bundle, on one engine. Its cache holds one sequence.

    Args:
        bundle, device, threads: see `recognizer.Recognizer`.

    Attributes:
        threads: as given.
        prompts: text to token ids, and back.
        embedding: the rows of tokens.
        decoder: the open graph.
        eos_ids: tokens that end a text; the first one is what the model was taught to write.
        repetition_penalty: of the checkpoint's generation_config.json.
        cache_on_host: whether the decoder's buffers are the host's own memory.
        alike: whether a token that follows the text directly has the same bits, whatever is computed with it: the
            decoder's products and attention are ours.

    Raises:
        BundleError: the bundle is damaged.
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.
    """

    def __init__(self, bundle: Bundle, *, device: Device | None = None, threads: int | None = None) -> None:
        manifest = bundle.manifest
        self._graphs = graphs = open_graphs(bundle, device, threads)
        self._sessions: list[Session] = []
        self.threads = threads
        self.embedding = bundle.embedding()
        self.prompts = PromptBuilder(bundle.file(TOKENIZER), read_spec(PromptSpec, manifest["prompt"], "prompt"))
        decoder = self._open("decoder.onnx")
        self.decoder = Decoder(
            decoder,
            read_spec(DecoderSpec, manifest["decoder"], "decoder"),
            open_head(bundle, self._open, screened=graphs.exact_float32),
        )
        self.alike = isinstance(decoder, OnnxRuntimeSession) and decoder.has_own_products
        self.eos_ids = manifest["generation"]["eos_token_ids"]
        self.repetition_penalty = float(manifest["generation"].get("repetition_penalty", 1.0))
        self.cache_on_host = graphs.cache_on_host

    @property
    def products(self) -> str | None:
        """Whose kernels multiply weights of 4 or 8 bits: "onnxruntime", or ours and by which instructions, as
        "fgr-edge avx512vnni"; both, where an engine refuses ours for some graphs. None where no graph has such weights,
        and on TensorRT."""
        opened = (one.products for one in self._sessions if isinstance(one, OnnxRuntimeSession))
        return ", ".join(sorted({name for name in opened if name is not None})) or None

    def _open(self, name: str) -> Session:
        self._sessions.append(self._graphs.session(name))
        return self._sessions[-1]

    def extend(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; logits [V] after the last; overwritten by the next call."""
        return self.decoder.extend(self.embedding.gather(np.asarray(tokens, np.int64)))

    def advance(self, tokens: Sequence[int]) -> LazyLogits:
        """As `extend`; the logits are computed as far as somebody asks for them."""
        return self.decoder.advance(self.embedding.gather(np.asarray(tokens, np.int64)))


class Model(TextModel):
    """All graphs and tables of a bundle.

    Args:
        bundle, device, threads, fast_pictures: see `recognizer.Recognizer`.

    Attributes:
        image: the preprocessing numbers.
        vision: the open graph.

    Raises:
        BundleError: the bundle is damaged.
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device | None = None,
        threads: int | None = None,
        fast_pictures: bool = False,
    ) -> None:
        super().__init__(bundle, device=device, threads=threads)
        self._fast_pictures = fast_pictures
        self.image = read_spec(ImageConfig, bundle.manifest["image"], "image")
        self.vision = VisionEncoder(
            self._open("vision.onnx"), read_spec(VisionSpec, bundle.manifest["vision"], "vision")
        )

    def patches(self, image: ImageInput) -> Patches:
        """The preprocessed picture.

        Raises:
            ImageError: the picture cannot be used.
        """
        return read_patches(image, self.image, fast=self._fast_pictures, threads=self.threads)

    def prefill(
        self, prompt: Prompt, embeds: ImageEmbeds, room: int, branches: int = 0, *, picture: int | None = None
    ) -> Floats:
        """Start a sequence: logits [V] after the prompt; overwritten by the next call.

        Args:
            room: for tokens after the prompt.
            branches: tokens of trees that the cache has room for beside them.
            picture: its number; then only what the last prompt did not begin with is read.
        """
        feed = picture_feed(prompt, embeds, self.embedding.gather)
        prefix = None if picture is None else KnownPrefix(prompt.told_apart(picture), feed.positions)
        return self.decoder.prefill(
            feed.embeds,
            feed.positions,
            max_new_tokens=room,
            branches=branches,
            deepstack=feed.deepstack,
            prefix=prefix,
        )
