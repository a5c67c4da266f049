"""How accurate a checkpoint is: exported, asked about labelled photographs, and thrown away.

In: a `Checkpoint`, with overlays or without, and photographs with their classes. Out: the share of right answers. A
greedy soup is chosen by it. On disk is one bundle at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.scoring import score_pictures
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.evaluate.evaluation import class_indices
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.progress import progress_bar
from fgr_edge.export.targets import TARGETS
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.recognizer import Recognizer


@dataclass(frozen=True, slots=True)
class Trial:
    """Call it with a checkpoint for its accuracy, from 0 to 1, in fp32 on this machine's CPU.

    Attributes:
        pictures: with classes among `labels`.
        labels: what the answers are chosen from.
        folder: a bundle is written below it and removed again.
        image_size: (width, height); pictures are resized to at most so many pixels.
        mode: direct or with reasoning.
        quiet: no progress bar.
    """

    pictures: Sequence[LabelledPicture]
    labels: LabelSet
    folder: Path
    image_size: tuple[int, int] | None = None
    mode: Mode = "direct"
    quiet: bool = False

    def __call__(self, checkpoint: Checkpoint) -> float:
        """Measure one checkpoint.

        Raises:
            CheckpointError, StorageError: see `write_bundle`.
            DataError: a class is not among the labels, or more than 5 % of the photographs cannot be opened.
            EngineError: the scores are no numbers.
        """
        truths = np.array(class_indices(self.pictures, self.labels), np.int64)
        self.folder.mkdir(parents=True, exist_ok=True)
        bundle = self.folder / "trial"
        # The digest would read every weight once more, for a bundle that nobody keeps.
        options = BundleOptions(str(checkpoint.path), "", image_size=self.image_size, quiet=self.quiet, title="trial")
        write_bundle(open_model(checkpoint), TARGETS["cpu"], Plan.uniform(SCHEMES["fp32"]), bundle, options)
        try:
            with progress_bar("accuracy", len(self.pictures), quiet=self.quiet) as step:
                recognizer = Recognizer(bundle, self.labels)
                scored = score_pictures(recognizer, self.pictures, truths, (self.mode,), step)
        finally:
            shutil.rmtree(bundle)
        return float((scored.log_probs[self.mode].argmax(axis=1) == scored.classes).mean())
