"""Which of an engine's optimization profiles takes a call of given shapes, and what to say where none does.

In: shapes by input. Out: a `Profile`, or an error that names the input and its range. Needs no TensorRT: an engine is
asked for its shapes once, when it is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgr_edge.errors import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile.

    Attributes:
        index: TensorRT's.
        least, most: smallest and largest shape of every input.
    """

    index: int
    least: Mapping[str, Shape]
    most: Mapping[str, Shape]

    def takes(self, name: str, shape: Shape) -> bool:
        """Whether an input may have this shape."""
        least, most = self.least[name], self.most[name]
        return len(shape) == len(most) and all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        )

    def is_smallest(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether a call is the smallest that the profile takes: one token, or the only size that it was built for."""
        return all(shapes[name] == least for name, least in self.least.items())

    def volume(self) -> int:
        """Numbers in the largest inputs: a profile of fewer is tuned closer to a shape that both take."""
        return sum(math.prod(shape) for shape in self.most.values())


def read_profiles(engine: Any, names: Iterable[str]) -> tuple[Profile, ...]:
    """The profiles of an open engine (`ICudaEngine`), for its inputs `names`."""
    fixed = {name: tuple(engine.get_tensor_shape(name)) for name in names}
    profiles = []
    for index in range(max(1, engine.num_optimization_profiles)):  # one where every shape is fixed
        least, most = dict(fixed), dict(fixed)
        for name, shape in fixed.items():
            if -1 in shape:
                low, _, high = engine.get_tensor_profile_shape(name, index)
                least[name], most[name] = tuple(low), tuple(high)
        profiles.append(Profile(index, least, most))
    return tuple(profiles)


def choose(profiles: Sequence[Profile], shapes: Mapping[str, Shape], where: str) -> Profile:
    """The closest profile that takes all `shapes`; `where` names the engine in messages.

    Raises:
        EngineError: none does; the message names the inputs at fault and their ranges.
    """
    fitting = [profile for profile in profiles if all(profile.takes(name, shape) for name, shape in shapes.items())]
    if fitting:
        return min(fitting, key=Profile.volume)
    closest = min(profiles, key=lambda profile: len(_refused(profile, shapes)))
    said = "; ".join(
        f"{name} is {list(shapes[name])}, expected {' or '.join(_ranges(profiles, name))}"
        for name in _refused(closest, shapes)
    )
    raise EngineError(
        f"{where} was not built for these sizes: {said}. Use a picture, a prompt or a list of labels of such a size, "
        "or build the engines for larger ones: fgr-edge build BUNDLE --force"
    )


def _refused(profile: Profile, shapes: Mapping[str, Shape]) -> list[str]:
    return [name for name, shape in shapes.items() if not profile.takes(name, shape)]


def _ranges(profiles: Sequence[Profile], name: str) -> list[str]:
    """What each profile takes, once: "[1, 1 to 512, 2048]"."""
    found = []
    for profile in profiles:
        sizes = zip(profile.least[name], profile.most[name], strict=True)
        text = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in sizes)
        if f"[{text}]" not in found:
            found.append(f"[{text}]")
    return found


def longest(profiles: Sequence[Profile], name: str, axis: int) -> int | None:
    """The most that any profile takes along an axis of an input; None where there is no such input."""
    sizes = [profile.most[name][axis] for profile in profiles if name in profile.most]
    return max(sizes, default=None)
