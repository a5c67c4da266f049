"""A photograph as a small JPEG inside a page."""

from __future__ import annotations

import base64
import io
import os
from html import escape

from fgr_edge.errors import ImageError
from fgr_edge.runtime.image import load_image

THUMBNAIL_PX = 120


def thumbnail(path: str | os.PathLike[str], title: str | None = None) -> str:
    """An <img> element that holds the picture; nothing where the file cannot be opened any more.

    Args:
        title: shown with the picture; None takes the path.
    """
    try:
        picture = load_image(path)
    except ImageError:
        return ""
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" title="{escape(str(path) if title is None else title)}" src="data:image/jpeg;base64,{data}">'
