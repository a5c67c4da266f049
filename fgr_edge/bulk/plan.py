"""The plan of a bulk labelling: what is labelled, with what, and how it is cut into shards.

Two runs may write into one output if their plans are the same: else half of the records would be another model's.
Workers, threads and the engine are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from fgr_edge import __version__
from fgr_edge.bulk.config import LabelConfig
from fgr_edge.bulk.store import Store
from fgr_edge.runtime.prompt import Mode

SCHEMA_VERSION = 1


class PlanSource(TypedDict):
    """The photographs."""

    path: str
    photographs: int
    bytes: int
    sha256: str


class Plan(TypedDict):
    """plan.json; two runs may share an output if theirs differ in nothing but `source.path`."""

    schema_version: int
    fgr_edge: str
    bundle_sha256: str
    labels_sha256: str | None
    mode: Mode
    question: str | None
    think_budget: int | None
    top_k: int
    shard_size: int
    source: PlanSource


def plan_of(config: LabelConfig, store: Store, bundle_sha256: str, labels_sha256: str | None) -> Plan:
    """The plan of a run; `bundle_sha256` is the manifest's, which has every file's."""
    return {
        "schema_version": SCHEMA_VERSION,
        "fgr_edge": __version__,
        "bundle_sha256": bundle_sha256,
        "labels_sha256": labels_sha256,
        "mode": config.mode,
        "question": config.question,
        "think_budget": config.think_budget,
        "top_k": config.top_k,
        "shard_size": config.shard_size,
        "source": {
            "path": str(config.source),
            "photographs": len(store.photographs),
            "bytes": store.size_bytes,
            "sha256": store.sha256,
        },
    }


def differences(there: Mapping[str, Any], now: Plan) -> Iterator[str]:
    """What a plan that was read has otherwise, one text a difference; where the source lies does not matter."""
    source = there.get("source")
    source = source if isinstance(source, dict) else {}
    for key, value in now.items():
        if key != "source" and there.get(key) != value:
            yield f"{key.removesuffix('_sha256')} is {_shown(there.get(key))} there, {_shown(value)} now"
    if source.get("sha256") != now["source"]["sha256"]:
        yield (
            f"the source had {source.get('photographs')} photographs ({source.get('bytes')} bytes), and has "
            f"{now['source']['photographs']} ({now['source']['bytes']} bytes)"
        )


def _shown(value: object) -> str:
    """A value as a message has it; a digest by its beginning."""
    text = repr(value)
    return f"{text[:13]}…'" if isinstance(value, str) and len(value) == 64 else text
