"""A checkpoint from the Hugging Face hub: an id in, a local folder out."""

from __future__ import annotations

import errno
import logging
import re
from pathlib import Path

from fgr_edge.errors import CheckpointError, MissingExtraError, StorageError

log = logging.getLogger(__name__)

ALLOWED = ("*.json", "*.safetensors", "*.jinja", "*.txt")  # never pickled weights, never code
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form owner/name."""
    return _HUB_ID.fullmatch(source) is not None


def download(hub_id: str) -> Path:
    """Bring `hub_id` into the Hugging Face cache and return its folder.

    An interrupted download goes on where it stopped.

    Raises:
        CheckpointError: no network and nothing in the cache, no such model, or no access to it.
        StorageError: the cache's disk is full.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise MissingExtraError(
            f"{hub_id} is no folder here, and downloading it needs huggingface_hub; "
            "run `pip install 'fgr-edge[export]'` or give the path of a local checkpoint"
        ) from error
    log.info("downloading %s from the Hugging Face hub", hub_id)
    # The hub client changed its HTTP library twice; the bases of its own error are that library's.
    failures: tuple[type[Exception], ...] = (
        OSError,
        ValueError,
        EntryNotFoundError,
        *HfHubHTTPError.__bases__,
    )
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(ALLOWED)))
    except failures as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageError(
                f"the disk of the Hugging Face cache is full, {hub_id} is not complete; free space or point HF_HOME to "
                "a larger disk, then run again: the download goes on where it stopped"
            ) from error
        details = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"there is no folder {hub_id}, and downloading the model of that id failed ({type(error).__name__}: "
            f"{details}); check the spelling and the network (and HF_TOKEN for gated models), or download it elsewhere "
            "and give the path of the folder"
        ) from error
