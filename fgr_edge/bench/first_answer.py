"""The program of a fresh process: import, open a bundle, answer one picture, print one line of JSON, end.

    python -m fgr_edge.bench.first_answer BUNDLE PICTURE '{"labels": null, "mode": "direct", ...}'

Out: milliseconds of each part, and the memory that the process has taken until then (null where /proc does not tell).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """The command line, which only `starts` writes."""
    started = time.perf_counter()
    from fgr_edge.runtime.recognizer import Recognizer

    bundle, picture, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    imported = time.perf_counter()
    recognizer = Recognizer(bundle, options["labels"], device=options["device"], threads=options["threads"])
    opened = time.perf_counter()
    found = recognizer(Path(picture), mode=options["mode"], think_budget=options["think_budget"])
    answered = time.perf_counter()
    document = {
        "import_ms": (imported - started) * 1e3,
        "open_ms": (opened - imported) * 1e3,
        "answer_ms": (answered - opened) * 1e3,
        "tokens": found.timings.prompt_tokens + found.timings.generated_tokens,
        **memory(),
    }
    print(json.dumps(document), flush=True)


def memory(status: Path = Path("/proc/self/status")) -> dict[str, int | None]:
    """High-water mark of resident memory, and what of it now is the process's own."""
    found: dict[str, int | None] = {"peak_bytes": None, "anonymous_bytes": None}
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        key, _, value = line.partition(":")
        if key in ("VmHWM", "RssAnon"):
            found["peak_bytes" if key == "VmHWM" else "anonymous_bytes"] = int(value.split()[0]) * 1024
    return found


if __name__ == "__main__":
    main()
