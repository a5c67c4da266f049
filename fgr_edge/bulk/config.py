"""What a bulk labelling is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.request import Request


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What to label.

    Attributes:
        bundle: folder of the bundle.
        source: the photographs, see `store`.
        output: folder for the records; it may hold an unfinished run of the same plan.
        labels: file of class names; None takes the bundle's. With none at all the model answers freely.
        images: folder from which the paths of a list start; None is the folder of the list.
        mode, question, think_budget, top_k: as for `Recognizer`.
        shard_size: photographs in a shard: what a dead worker loses.
        engine: "local", or "ray" for a cluster.
        workers: processes; None is one, on Ray one for each machine.
        threads: of one operator; None shares the cores among the workers.
        ray_address: of the cluster, see `ray_engine`.
        force: drop the records that are there, and begin anew.

    Raises:
        ConfigError: an option makes no sense.
    """

    bundle: Path
    source: Path
    output: Path
    labels: Path | None = None
    images: Path | None = None
    mode: Mode = "direct"
    question: str | None = None
    think_budget: int | None = None
    top_k: int = 1
    shard_size: int = 256
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    threads: int | None = None
    ray_address: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        Request(self.mode, self.question, self.think_budget)
        if self.engine not in ("local", "ray"):
            raise ConfigError(f"engine is {self.engine!r}, expected 'local' or 'ray'")
        for name, value in (
            ("top_k", self.top_k),
            ("shard_size", self.shard_size),
            ("workers", self.workers),
            ("threads", self.threads),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")
        if self.ray_address is not None and self.engine != "ray":
            raise ConfigError(
                f"the address {self.ray_address} is a Ray cluster's; choose engine 'ray', or leave it out"
            )
