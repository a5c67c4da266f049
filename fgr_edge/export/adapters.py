"""A LoRA adapter in PEFT's format, merged into a checkpoint while it streams.

In: a `Checkpoint` and a folder with adapter_config.json and adapter_model.safetensors. Out: the checkpoint with the
adapted tensors computed row by row when asked for; no weight of the base is read here.

    matrix        W + s B A                  s = alpha / rank, or alpha / sqrt(rank) for rsLoRA
    embedding     E + s (B A)^T
    DoRA          (W + s B A) with each row scaled to its trained magnitude m / |row|
    bias          b + s b_B                  where B has a bias of its own
    saved whole   the tensor in the adapter  (modules_to_save, trained biases, embeddings)

Computed in float32 and rounded once to the dtype that the base stores, which is what PEFT's `merge_and_unload` does
to a base loaded in its own dtype. It differs from PEFT's merge where embedding and output projection are one tensor:
there PEFT adds an adapter of the one to both, while the model that was trained had it in the one alone. Here the other
keeps the base's values, as in training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import CheckpointError
from fgr_edge.export.adapter_config import MERGE_WITH_PEFT, AdapterConfig, parse_adapter_config
from fgr_edge.export.architectures import Family, family_of
from fgr_edge.export.checkpoint import Checkpoint, json_object
from fgr_edge.export.lazy_tensor import FLOATS, LazyTensor, VirtualTensor
from fgr_edge.export.safetensors_file import open_safetensors
from fgr_edge.export.stored_names import HEAD_NAMES, embedding_name, head_name, stored_name
from fgr_edge.runtime.bundle import sha256_of

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
_ROOT = "base_model.model."  # what PEFT puts before every name

_Rows = Callable[[int, int], npt.NDArray[np.float32]]

# how a tensor's name ends -> its role in the module before it
_ROLES = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_B.bias": "B_bias",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
    ".lora_magnitude_vector": "magnitude",
}


@dataclass(frozen=True, slots=True)
class _Adapter:
    """An opened adapter.

    Attributes:
        modules: module name as trained -> role (a value of `_ROLES`) -> tensor.
        whole: tensor name as trained -> the tensor that takes its place.
    """

    folder: Path
    config: AdapterConfig
    modules: dict[str, dict[str, LazyTensor]] = field(default_factory=dict)
    whole: dict[str, LazyTensor] = field(default_factory=dict)


def with_adapter(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """`checkpoint` with the adapter in `folder` merged; reads the adapter, not the checkpoint.

    Raises:
        CheckpointError: the folder is no LoRA adapter, is damaged, asks for what a merge cannot do, or was trained on
            another model.
    """
    adapter = _open(folder)
    _warn_of_another_base(adapter, checkpoint)
    tensors = _Merge(checkpoint, family_of(checkpoint.config), adapter).tensors()
    digests = ", ".join(f"{name} sha256 {sha256_of(folder / name)}" for name in (CONFIG, WEIGHTS))
    log.info("adapter %s: %d matrices adapted, %d tensors replaced", folder, len(adapter.modules), len(adapter.whole))
    return checkpoint.with_tensors(tensors, f"adapter {folder.resolve().name}: {digests}")


def _open(folder: Path) -> _Adapter:
    parsed = json_object(folder / CONFIG) if folder.is_dir() else None
    if parsed is None:
        raise CheckpointError(f"{folder} is no adapter: expected a folder with {CONFIG} and {WEIGHTS}{_advice(folder)}")
    adapter = _Adapter(folder, parse_adapter_config(parsed, str(folder / CONFIG)))
    if not (folder / WEIGHTS).is_file():
        advice = ""
        if (folder / PICKLED).is_file():
            advice = (
                f"; {PICKLED} is a pickle and is not read: convert it with `safetensors.torch.save_file(torch.load("
                f"'{PICKLED}', weights_only=True), '{WEIGHTS}')`"
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}{advice}")
    for name, tensor in open_safetensors(folder / WEIGHTS).tensors.items():
        _sort(adapter, name, tensor)
    if not adapter.modules and not adapter.whole:
        raise CheckpointError(f"{folder / WEIGHTS} holds no tensors; save the adapter again")
    return adapter


def _sort(adapter: _Adapter, name: str, tensor: LazyTensor) -> None:
    """Put a stored tensor where `_Merge` looks for it."""
    where = adapter.folder / WEIGHTS
    if not tensor.shape or not np.isfinite(tensor.read()).all():
        raise CheckpointError(f"{where} has no numbers, or NaN or infinity, in {name!r}: training had failed")
    path = name.removeprefix(_ROOT)
    for end, role in _ROLES.items():
        if path.endswith(end):
            adapter.modules.setdefault(path.removesuffix(end), {})[role] = tensor
            return
    if "lora_" in path or "token_adapter" in path:
        raise CheckpointError(f"{where} has a tensor {name!r}, which is not supported here; {MERGE_WITH_PEFT}")
    adapter.whole[path.replace(".base_layer.", ".")] = tensor


def _advice(folder: Path) -> str:
    if not folder.is_dir():
        return ", but there is no such folder"
    if (folder / "config.json").is_file():
        return "; this is a whole checkpoint: export it itself"
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    return f"; there is one in {folder / below[-1]}" if below else ""


def _warn_of_another_base(adapter: _Adapter, checkpoint: Checkpoint) -> None:
    trained_on = adapter.config.trained_on.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if trained_on and trained_on.lower() not in str(checkpoint.path.resolve()).lower():
        log.warning(
            "adapter %s was trained on %s; it is merged into %s. Unless they are the same model, the result is wrong",
            adapter.folder, adapter.config.trained_on, checkpoint.path,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Merge:
    """One adapter onto one checkpoint."""

    checkpoint: Checkpoint
    family: Family
    adapter: _Adapter

    def tensors(self) -> dict[str, LazyTensor]:
        """Every tensor that the adapter changes, by the name under which the checkpoint stores it."""
        tensors: dict[str, LazyTensor] = {}
        for path, saved in self.adapter.whole.items():
            name, base = self._base(path)
            if saved.shape != base.shape:
                raise self._of_another_model(path, saved.shape, base.shape)
            tensors[name] = VirtualTensor(name, base.shape, base.dtype, saved.rows)
        for module, roles in self.adapter.modules.items():
            name, base = self._base(f"{module}.weight")
            base = tensors.get(name, base)
            rows = self._embedding(module, roles, base) if "embedding_A" in roles else self._matrix(module, roles, base)
            tensors[name] = VirtualTensor(name, base.shape, base.dtype, rows)
            if "B_bias" in roles:
                name, base = self._base(f"{module}.bias")
                rows = self._bias(module, roles["B_bias"], tensors.get(name, base))
                tensors[name] = VirtualTensor(name, base.shape, base.dtype, rows)
        self._keep_tied_head(tensors)
        return tensors

    def _base(self, path: str) -> tuple[str, LazyTensor]:
        """The checkpoint's tensor that training called `path`; an output projection that it does not store is tied."""
        name = stored_name(self.checkpoint, self.family, path)
        if name is not None:
            tensor = self.checkpoint.tensor(name)
            if tensor.dtype not in FLOATS:
                raise CheckpointError(
                    f"{self.checkpoint.path} stores {name!r} as {tensor.dtype}, which nothing can be added to; merge "
                    "into the model before it was quantized"
                )
            return name, tensor
        tied = embedding_name(self.checkpoint, self.family)
        if path in HEAD_NAMES and tied is not None:
            return HEAD_NAMES[0], self.checkpoint.tensor(tied)
        raise CheckpointError(
            f"{self.adapter.folder} adapts {path!r}, which {self.checkpoint.path} does not have; it was trained on "
            f"{self.adapter.config.trained_on or 'another model'}: give that as the checkpoint"
        )

    def _keep_tied_head(self, tensors: dict[str, LazyTensor]) -> None:
        """An adapted embedding leaves the output projection as it was, even where the two are one tensor."""
        name = embedding_name(self.checkpoint, self.family)
        if name in tensors and head_name(self.checkpoint) is None and HEAD_NAMES[0] not in tensors:
            tensors[HEAD_NAMES[0]] = self.checkpoint.tensor(name)

    def _matrix(self, module: str, roles: Mapping[str, LazyTensor], base: LazyTensor) -> _Rows:
        a, b = self._factors(module, roles, "A", "B")
        rank = self.adapter.config.rank_of(module)
        # A convolution's factors are [rank, *kernel] and [N, rank, 1, ...]: the patch embedding is a matrix, too.
        if a.shape != (rank, *base.shape[1:]) or b.shape != (base.shape[0], rank, *(1,) * (len(base.shape) - 2)):
            raise self._of_another_model(f"{module}.weight", (b.shape[0], *a.shape[1:]), base.shape, (a, b))
        magnitude = roles.get("magnitude")
        if (magnitude is not None) != self.adapter.config.dora or (magnitude is not None and len(base.shape) != 2):
            raise self._unsupported(module, "DoRA magnitudes that do not go with use_dora or with a linear layer")
        if magnitude is not None and magnitude.shape != base.shape[:1]:
            raise self._of_another_model(f"{module}.weight", magnitude.shape, base.shape)
        return _merged_rows(base, a, b, self.adapter.config.scaling_of(module), magnitude)

    def _embedding(self, module: str, roles: Mapping[str, LazyTensor], base: LazyTensor) -> _Rows:
        a, b = self._factors(module, roles, "embedding_A", "embedding_B")
        rank, scaling = self.adapter.config.rank_of(module), self.adapter.config.scaling_of(module)
        if a.shape != (rank, base.shape[0]) or b.shape != (base.shape[-1], rank):
            raise self._of_another_model(f"{module}.weight", (a.shape[-1], b.shape[0]), base.shape, (a, b))
        if "magnitude" in roles or self.adapter.config.dora:
            raise self._unsupported(module, "DoRA on an embedding")

        def rows(start: int, stop: int) -> npt.NDArray[np.float32]:
            delta = a.read()[:, start:stop].T @ b.read().T  # [stop - start, H]
            delta *= np.float32(scaling)
            delta += base.rows(start, stop)
            return delta

        return rows

    def _bias(self, module: str, bias: LazyTensor, base: LazyTensor) -> _Rows:
        if bias.shape != base.shape:
            raise self._of_another_model(f"{module}.bias", bias.shape, base.shape)
        scaling = np.float32(self.adapter.config.scaling_of(module))
        return lambda start, stop: base.rows(start, stop) + bias.rows(start, stop) * scaling

    def _factors(self, module: str, roles: Mapping[str, LazyTensor], a: str, b: str) -> tuple[LazyTensor, LazyTensor]:
        if a not in roles or b not in roles:
            raise CheckpointError(
                f"{self.adapter.folder / WEIGHTS} has {', '.join(sorted(roles))} of {module!r}, expected both factors "
                f"{a} and {b}; save the adapter again"
            )
        return roles[a], roles[b]

    def _unsupported(self, module: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.adapter.folder} has {what} in {module!r}; {MERGE_WITH_PEFT}")

    def _of_another_model(
        self, path: str, found: tuple[int, ...], base: tuple[int, ...], factors: tuple[LazyTensor, ...] = ()
    ) -> CheckpointError:
        ranks = f" (factors {[list(factor.shape) for factor in factors]}, rank {self.adapter.config.rank})"
        return CheckpointError(
            f"{self.adapter.folder} adapts {path!r} of shape {list(found)}{ranks if factors else ''}, but in "
            f"{self.checkpoint.path} it has {list(base)}; it was trained on "
            f"{self.adapter.config.trained_on or 'another model'}: give that as the checkpoint"
        )


def _merged_rows(base: LazyTensor, a: LazyTensor, b: LazyTensor, scaling: float, magnitude: LazyTensor | None) -> _Rows:
    def rows(start: int, stop: int) -> npt.NDArray[np.float32]:
        rank = a.shape[0]
        merged = b.rows(start, stop).reshape(stop - start, rank) @ a.read().reshape(rank, -1)
        merged *= np.float32(scaling)
        merged += base.rows(start, stop).reshape(merged.shape)
        if magnitude is not None:
            # einsum: no array of squares beside the rows
            norms = np.sqrt(np.einsum("ij,ij->i", merged, merged))
            merged *= (magnitude.rows(start, stop) / norms)[:, None]
        return merged.reshape(stop - start, *base.shape[1:])

    return rows
