"""The libraries of our own C: opened where one was built for this machine, and done without where not.

In: the path of a library beside its sources, and a function that it has. Out: the library, or None; why not is logged,
never raised. They are accelerators and never requirements.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)


@cache
def opened(library: Path, function: str) -> ctypes.CDLL | None:
    """The library, if it is there, loads here and has `function`."""
    if not library.is_file():
        log.debug("%s was not built: it is done without", library.name)
        return None
    try:
        found = ctypes.CDLL(str(library))
        getattr(found, function)
    except (OSError, AttributeError) as error:  # of another platform, cut short, or of another version
        log.info("%s cannot be used (%s): it is done without", library.name, error)
        return None
    return found
