"""Where one export keeps what it needs on the way: the original in fp32 and the candidates, as bundles in a folder.

In: an opened model and a target. Out: bundles. The folder lies inside the one that becomes the bundle, so that a killed
export leaves nothing behind; `adopt` moves the chosen candidate up.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import StorageError
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.graphs.decoder import decoder_weights
from fgr_edge.export.graphs.vision import vision_weights
from fgr_edge.export.model import Model
from fgr_edge.export.targets import TARGETS, Target
from fgr_edge.runtime.manifest import MANIFEST, Manifest, read_manifest

ORIGINAL = Plan.uniform(SCHEMES["fp32"])
THINKER_BYTES = 4 * 2**30  # of float32 weights; ONNX Runtime has them in memory up to twice while it opens them


class Workshop:
    """Bundles of one model.

    Args:
        folder: to work in.
        model: the original, adapters and soups included, nothing quantized.
        target: of the candidates; the original is always on the CPU.
        options: of every bundle.
    """

    def __init__(self, folder: Path, model: Model, target: Target, options: BundleOptions) -> None:
        self.folder = folder
        self.model = model
        self.target = target
        self._options = options
        self._original: Path | None = None
        self._thinker: Path | None = None
        self._candidates = 0

    @property
    def original(self) -> Path:
        """The model in fp32, written when first asked for."""
        if self._original is None:
            self._original = self._written("original", self.model, TARGETS["cpu"], ORIGINAL)
        return self._original

    @property
    def thinker(self) -> Path:
        """What writes thoughts to calibrate on: the original, in int8 where float32 would take too much memory."""
        dims = self.model.decoder_dims, self.model.vision_dims
        if 4 * (decoder_weights(dims[0]) + vision_weights(dims[1])) <= THINKER_BYTES:
            return self.original
        if self._thinker is None:
            plan = Plan.uniform(SCHEMES["int8"])
            self._thinker = self._written("thinker", self.model, TARGETS["cpu"], plan)
        return self._thinker

    def write(self, model: Model, plan: Plan) -> Path:
        """Write a candidate: `model` computes what the original does, perhaps with other scales."""
        if self.target.name == "cpu" and plan == ORIGINAL:
            return self.original
        self._candidates += 1
        return self._written(f"candidate-{self._candidates}", model, self.target, plan)

    def discard(self, candidate: Path) -> None:
        """Free the disk of a candidate that was not good enough."""
        if candidate != self._original:
            shutil.rmtree(candidate)

    def adopt(self, candidate: Path, folder: Path) -> Manifest:
        """Move the candidate's files to `folder`, remove everything else, and return its manifest."""
        manifest = read_manifest(candidate)
        for path in sorted(candidate.iterdir()):
            if path.name != MANIFEST:
                path.rename(folder / path.name)
        shutil.rmtree(self.folder)
        return manifest

    def _written(self, name: str, model: Model, target: Target, plan: Plan) -> Path:
        title = "export" if name.startswith("candidate") else name
        try:
            return write_bundle(model, target, plan, self.folder / name, replace(self._options, title=title))
        except StorageError as error:
            # The user knows the bundle, not the folder inside it: the writer of the one around says it in its words.
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise
