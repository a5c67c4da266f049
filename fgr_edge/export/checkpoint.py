"""A Hugging Face checkpoint: config.json, tokenizer, and its weights as lazy tensors.

In: a local folder, or the id of a model on the hub. Out: the parsed config, the texts beside it, and tensors
by the name they are stored under. Does not know model families: what a name means is for `architectures/`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fgr_edge.errors import CheckpointError
from fgr_edge.export.hub import download, is_hub_id
from fgr_edge.export.lazy_tensor import LazyTensor, same_values
from fgr_edge.export.safetensors_file import SafetensorsFile, open_safetensors
from fgr_edge.runtime.bundle import sha256_of

__all__ = ["Checkpoint", "LazyTensor", "same_values"]

log = logging.getLogger(__name__)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_TEXT_BYTES = 256 * 1024 * 1024
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


class Checkpoint:
    """An opened checkpoint; `Checkpoint.open` checks every header, tensors are read when asked for.

    Attributes:
        path: the folder.
        config: the parsed config.json.
        notes: what was laid over the stored weights, in order (see `with_tensors`).
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        tensors: Mapping[str, LazyTensor],
        shards: tuple[SafetensorsFile, ...],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.config = config
        self._tensors = tensors
        self._shards = shards
        self.notes = notes

    @classmethod
    def open(cls, source: str | Path) -> Checkpoint:
        """Open a checkpoint folder, or download the model of a hub id "owner/name" and open that.

        Raises:
            CheckpointError: the folder is absent or no checkpoint, a shard is missing, truncated or garbage,
                the index contradicts the shards, or config.json is not JSON.
            MissingExtraError: a hub id was given and huggingface_hub is not installed.
        """
        path = _folder(source)
        config = json_object(path / "config.json")
        if config is None:
            raise CheckpointError(
                f"{path} has no config.json; expected a folder saved by transformers: config.json, {SINGLE} (or "
                f"{INDEX} and its shards) and tokenizer.json{_advice(path)}"
            )
        tensors, shards = _weights(path)
        size = sum(shard.size for shard in shards)
        log.info("checkpoint %s: %d tensors, %d files, %.1f MB", path, len(tensors), len(shards), size / 1e6)
        return cls(path, config, tensors, shards)

    def names(self) -> Iterator[str]:
        """Names of all tensors, as stored."""
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> LazyTensor:
        """The tensor stored as `name`.

        Raises:
            CheckpointError: there is none, or its shape is not `shape`.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; expected what its config.json describes")
        if shape is not None and tensor.shape != tuple(shape):
            raise CheckpointError(
                f"tensor {name!r} of {self.path} has shape {list(tensor.shape)}, expected {list(shape)} after "
                "config.json; config and weights are of different models"
            )
        return tensor

    def with_tensors(self, tensors: Mapping[str, LazyTensor], note: str) -> Checkpoint:
        """This checkpoint with `tensors` in place of those of the same names, or beside them; nothing is read.

        Args:
            tensors: by name, as `tensor` gives them out.
            note: says what they are, for provenance and the digest: where they do not follow from the stored
                weights alone, it carries a digest of what they are made from.
        """
        return Checkpoint(self.path, self.config, {**self._tensors, **tensors}, self._shards, (*self.notes, note))

    def json_file(self, name: str) -> dict[str, Any] | None:
        """The JSON object in file `name` (generation_config.json, say), or None where there is no such file.

        Raises:
            CheckpointError: the file holds something else.
        """
        return json_object(self.path / name)

    def text_file(self, name: str) -> str | None:
        """The text of file `name`, or None where there is no such file.

        Raises:
            CheckpointError: it is no UTF-8 text.
        """
        return _text(self.path / name)

    def chat_template(self) -> str | None:
        """The Jinja chat template, from the first place that has one; None where there is none (Fine-R1-3B).

        Places, newest first: chat_template.jinja, chat_template.json, tokenizer_config.json.
        """
        text = self.text_file("chat_template.jinja")
        if text is not None:
            return text
        for name in ("chat_template.json", "tokenizer_config.json"):
            template = (self.json_file(name) or {}).get("chat_template")
            if isinstance(template, list):  # several, by name: [{"name": "default", "template": ...}, ...]
                defaults = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
                template = defaults[0].get("template") if defaults else None
            if isinstance(template, str):
                return template
        return None

    @property
    def tokenizer_path(self) -> Path:
        """tokenizer.json.

        Raises:
            CheckpointError: there is none.
        """
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{self.path} has no tokenizer.json; save it with "
                "`AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)`"
            )
        return path

    def digest(self) -> str:
        """SHA-256, in hex, over config.json, name and content of every weight file, and the notes, for provenance.

        Reads every weight once: some seconds for the 8 GB of a 3B model.
        """
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for shard in self._shards:
            digest.update(f"\n{shard.path.relative_to(self.path).as_posix()} {sha256_of(shard.path)}".encode())
        for note in self.notes:
            digest.update(f"\nnote {note}".encode())
        return digest.hexdigest()


def _folder(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; expected the folder of a checkpoint, {path.parent} perhaps")
    if isinstance(source, str) and is_hub_id(source):
        return download(source)
    raise CheckpointError(
        f"there is no folder {path}; expected a checkpoint saved by transformers, or the id owner/name of a model on "
        "the Hugging Face hub"
    )


def _weights(path: Path) -> tuple[dict[str, LazyTensor], tuple[SafetensorsFile, ...]]:
    if (path / SINGLE).is_file():
        single = open_safetensors(path / SINGLE)
        return dict(single.tensors), (single,)
    index = json_object(path / INDEX)
    if index is None:
        raise CheckpointError(f"{path} has neither {SINGLE} nor {INDEX}{_advice(path)}")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / INDEX} has no weight_map; expected {{tensor name: file name}}")
    shards: dict[str, SafetensorsFile] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, shard_name in weight_map.items():
        if not isinstance(shard_name, str) or not _stays_inside(shard_name):
            raise CheckpointError(
                f"{path / INDEX} places {name!r} in {shard_name!r}, which is no file below the checkpoint's folder"
            )
        if shard_name not in shards:
            shards[shard_name] = _shard(path, shard_name, name)
        if name not in shards[shard_name].tensors:
            raise CheckpointError(
                f"{path / shard_name} lacks tensor {name!r}, which {INDEX} places there; index and shards are of "
                "different models or versions, download the checkpoint again"
            )
        tensors[name] = shards[shard_name].tensors[name]
    return tensors, tuple(shards[name] for name in sorted(shards))


def _shard(path: Path, shard_name: str, name: str) -> SafetensorsFile:
    if not (path / shard_name).is_file():
        raise CheckpointError(
            f"{path} lacks shard {shard_name}, which {INDEX} names for {name!r}; download the checkpoint again"
        )
    return open_safetensors(path / shard_name)


def _stays_inside(name: str) -> bool:
    # By name only: in the hub's cache every file is a link to a blob elsewhere.
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts and "\\" not in name


def _advice(path: Path) -> str:
    """What the folder seems to be instead, and what to do about it."""
    names = sorted(item.name for item in path.iterdir() if item.is_file())
    if "adapter_config.json" in names:
        return "; this is a LoRA adapter: export its base model and give this folder with --adapter"
    if "manifest.json" in names:
        return "; this looks like a bundle, which is already exported"
    weights = [name for name in names if name.endswith(".safetensors")]
    if weights:
        return f"; it has {', '.join(weights[:3])}, of no use without {INDEX}: download that too"
    pickled = [name for name in names if name.endswith(_PICKLED)]
    if pickled:
        return (
            f"; it has {', '.join(pickled[:3])}, which are pickles and are not read: convert with "
            "`AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(new_folder, "
            "safe_serialization=True)`"
        )
    return f"; found {', '.join(names[:5]) or 'no files'}"


def json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no such file.

    Raises:
        CheckpointError: it holds something else.
    """
    text = _text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download the checkpoint again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def _text(path: Path) -> str | None:
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_TEXT_BYTES} bytes; expected a text")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no UTF-8 text ({error}); download the checkpoint again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
