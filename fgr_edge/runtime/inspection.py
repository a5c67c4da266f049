"""What is inside a bundle, as JSON and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgr_edge.runtime.bundle import PARITY, Bundle


def describe(path: Path) -> dict[str, Any]:
    """The manifest with path, total size, memory of the KV cache and headline of the proof (schema of `--json`)."""
    bundle = Bundle.open(path)
    labels = bundle.labels()
    decoder = bundle.manifest["decoder"]
    per_token = 2 * decoder["layers"] * decoder["kv_heads"] * decoder["head_dim"]
    return {
        "path": str(path),
        "total_bytes": sum(entry["size"] for entry in bundle.manifest["files"].values()),
        "cache_bytes_per_token": per_token * (2 if decoder["cache_dtype"] == "float16" else 4),
        "labels": 0 if labels is None else len(labels.labels),
        "proof": _headline(bundle),
        **bundle.manifest,
    }


def summary(path: Path) -> str:
    """The same for a person."""
    d = describe(path)
    decoder, image = d["decoder"], d["image"]
    rows = [
        ("bundle", d["path"]),
        ("model", f"{d['name']} ({d['family']})"),
        ("target", f"{d['target']}, {d['dialect']} dialect"),
        ("precision", ", ".join(f"{part} {kind}" for part, kind in d["precision"].items())),
        *((("screen", f"{d['screen']['scheme']} copy of the head"),) if "screen" in d else ()),
        ("decoder", f"{decoder['layers']} layers of {decoder['hidden']}, {decoder['vocab']:,} tokens"),
        (
            "pictures",
            f"{image['min_pixels']:,} to {image['max_pixels']:,} pixels in patches of {image['patch_size']}",
        ),
        ("labels", str(d["labels"]) if d["labels"] else "none stored"),
        ("KV cache", f"{readable(d['cache_bytes_per_token'])} a token"),
        ("proof", d["proof"] or "none: it was not compared with the original"),
        *((name, readable(entry["size"])) for name, entry in sorted(d["files"].items())),
        ("total", readable(d["total_bytes"])),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _headline(bundle: Bundle) -> str | None:
    """What the parity report says in one line; None without a report."""
    if PARITY not in bundle:
        return None
    report = bundle.json(PARITY)
    headline = report.get("verdict", {}).get("headline") if isinstance(report, dict) else None
    return str(headline) if headline else None


def readable(count: int) -> str:
    """Bytes in decimal units: 1,234 -> '1.2 kB'."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
