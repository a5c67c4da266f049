"""Every failure a user can act on is an `FgrEdgeError`.

A message says what was found, what was expected and what to do. A leaf also subclasses the standard exception that
fits, so that code written against the standard library keeps working.
"""

from __future__ import annotations


class FgrEdgeError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits 1."""


class CheckpointError(FgrEdgeError, ValueError):
    """A checkpoint cannot be read: missing or truncated shards, wrong shapes, an unsupported architecture."""


class BundleError(FgrEdgeError, ValueError):
    """A bundle is not what its manifest says, or its manifest is not one this version reads."""


class OutputExistsError(FgrEdgeError, FileExistsError):
    """The output is already there and nobody said that it may be replaced."""


class StorageError(FgrEdgeError, OSError):
    """Writing failed: a full disk, no permission. Nothing half-written is left."""


class ImageError(FgrEdgeError, ValueError):
    """A picture cannot be used: empty, truncated, no picture at all, too large or too elongated."""


class LabelError(FgrEdgeError, ValueError):
    """A list of class names cannot be used: empty, with duplicates, with characters that no name has."""


class DataError(FgrEdgeError, ValueError):
    """A data set on disk is not laid out as expected."""


class ConfigError(FgrEdgeError, ValueError):
    """An option or a recipe asks for something that does not exist or does not fit together."""


class MissingExtraError(FgrEdgeError, ImportError):
    """A package that only some installs need is absent; the message names the extra that brings it."""


class EngineError(FgrEdgeError, RuntimeError):
    """The inference engine refused to load or run a graph."""


class ParityError(FgrEdgeError, ValueError):
    """A finished bundle is further from the original than the user allows."""
