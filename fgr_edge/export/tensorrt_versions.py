"""What each version of TensorRT can do: the one place of the builder that compares versions.

In: a product and the version of the library that is installed. Out: its `Release`, a row. Imports no TensorRT.

    10.3    JetPack 6.1, 6.2     no attention, no KV cache, no rotary layers: graphs are rewritten in basic operators
    10.13   JetPack 7.0, 7.1     the same
    10.16   JetPack 7.2          has all three: graphs as they were exported
    11      data-centre GPUs     the same; strongly typed only, which all graphs here are anyway. JetPack from 11.4.1 on
    RTX     GeForce, RTX, L4     the same; builds for GPUs that are not there

Read in the source of the parser of 10.1 (that of 10.3 was not at hand, nothing was run): it has every operator of the
basic dialect, takes opset 21, and infers how integers are quantized from the weight's type and the scale's shape.

What only some versions have is called below an `if` on a field of `Release`, or not at all: a test holds every member
that the code touches against the published bindings of each version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fgr_edge.errors import EngineError
from fgr_edge.runtime.engine_record import Product

Spelling = Literal["basic", "standard"]


@dataclass(frozen=True, slots=True)
class Release:
    """One row: what a library from version `since` on can do, up to the next row of its product.

    Attributes:
        dialect: operators that its parser and builder take.
        names_gpus: whether it builds for generations that are named, without a GPU.
        user_allocation: whether an engine has to be told that its memory will be the user's, for CUDA graphs.
        times_tactics: whether building runs kernels against each other on the GPU, and fills a timing cache.
        streams_plans: whether an engine can be written piece by piece, instead of as one block of memory.
    """

    product: Product
    since: tuple[int, int]
    dialect: Spelling
    jetpack: str | None = None
    names_gpus: bool = False
    user_allocation: bool = False
    times_tactics: bool = True
    streams_plans: bool = True


RELEASES = (
    Release("tensorrt", (10, 3), "basic", "6.1 and 6.2", streams_plans=False),
    Release("tensorrt", (10, 13), "basic", "7.0 and 7.1"),
    Release("tensorrt", (10, 16), "standard", "7.2"),
    Release("tensorrt", (11, 0), "standard"),
    Release("tensorrt-rtx", (1, 7), "standard", names_gpus=True, user_allocation=True, times_tactics=False),
)


def find_release(product: Product, version: str) -> Release:
    """The row of an installed library; `version` as the library says it, such as "10.3.0" or "1.7.1.116".

    Raises:
        EngineError: it is older than the first row, or no version.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    rows = [release for release in RELEASES if release.product == product]
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    fitting = [release for release in rows if release.since <= number]
    if not fitting:
        first = ".".join(str(part) for part in rows[0].since)
        what = "tensorrt-rtx" if product == "tensorrt-rtx" else "tensorrt (on a Jetson: JetPack 6.1 or newer)"
        raise EngineError(f"{product} {version} is installed, expected {first} or newer: upgrade {what}")
    return max(fitting, key=lambda release: release.since)
