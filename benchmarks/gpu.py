"""Everything that only a machine with an NVIDIA GPU can show, in one run: parity, latency, share of the bandwidth.

In: what is installed. Out: `results/gpu.json`, written after every section, and `results/gpu.png`. Sections run one
after another in processes of their own (`gpu_section.py`): ONNX Runtime CUDA, TensorRT-RTX and TensorRT, each on nano
and on random weights of the 3B shape, in fp16, int8 and int4; transformers, eager and compiled. What is not installed,
fails, crashes or runs out of time is recorded with its reason. A second run goes on where the first stopped: sections
that were done are kept.

parity     `fgr-edge verify`: every stage against the original, computed on the CPU in float32.
latency    drawn pictures of 448 x 448, direct answers without labels: vision, first token (TTFT), and
           `--new-tokens` greedy tokens after it (TPOT); p50 and p99 of `--rounds` rounds after two that warm up.
roofline   bytes of weights and cache that a token reads, times tokens per second, over the bandwidth of copies on the
           device, measured in the section `card`.
bars       of the 3B shape in fp16: tokens per second over transformers eager (2.0 wanted), share of the roofline (0.6),
           first token over transformers' (1.0 at most).

    python -m benchmarks.gpu [--minutes 25] [--models nano,3b] [--only 'onnxruntime/*'] [--tokenizer FILE] [--redo]
    python -m benchmarks.gpu --dry-run          what would run
    python -m benchmarks.gpu --device cpu ...   the same code on the CPU; the times mean nothing
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.gpu_card import find_card
from benchmarks.gpu_section import ENGINES, MODELS, PRECISIONS
from benchmarks.machine import describe_machine
from benchmarks.report import cell, publish, table

RESULTS = Path(__file__).resolve().parent / "results"
LEAST_S = 20.0  # a section is not begun with less time than this
KEPT_WORDS = 1500  # of a crashed section's stderr


@dataclass(frozen=True, slots=True)
class Deadline:
    """When all must be over; None never."""

    at: float | None

    def left_s(self) -> float:
        """Seconds; a day where there is no deadline."""
        return 86400.0 if self.at is None else max(0.0, self.at - time.monotonic())


def sections(models: Sequence[str]) -> list[str]:
    """All, the telling ones of each model first, so that a time limit cuts off the others."""
    names = ["card"]
    for model in models:
        names += [f"onnxruntime/{model}/fp16", f"tensorrt-rtx/{model}/fp16", f"tensorrt/{model}/fp16"]
        names += [f"transformers/{model}/eager"]
        names += [f"{engine}/{model}/{precision}" for precision in PRECISIONS[1:] for engine in ENGINES]
        names += [f"transformers/{model}/compiled"]
    return names


def run_section(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run one section's process and keep every step that it told, also where it ends badly.

    Returns:
        status: "done", "failed" (a step or the process), "absent" (something is not installed) or "cut" (no time left).
    """
    started = time.monotonic()
    # A group of its own: what the section starts ends with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    drain.start()
    cut = threading.Event()

    def stop() -> None:
        cut.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    steps: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("\n"):  # a process that is ended may leave half a line
            step = json.loads(line)
            steps[step.pop("step")] = step
    code = process.wait()
    timer.cancel()
    drain.join()
    return {
        **_outcome(steps, code, cut.is_set(), errors),
        "seconds": round(time.monotonic() - started, 1),
        "steps": steps,
    }


def _outcome(steps: dict[str, Any], code: int, cut: bool, errors: Sequence[str]) -> dict[str, Any]:
    wrong = {name: step for name, step in steps.items() if not step["ok"]}
    if cut:
        return {"status": "cut", "reason": f"the time limit came after {', '.join(steps) or 'nothing'}"}
    if code != 0:
        words = "".join(errors).strip()[-KEPT_WORDS:]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return {"status": "failed", "reason": f"the process {how} after {', '.join(steps) or 'nothing'}: {words}"}
    if any(step.get("absent") for step in wrong.values()):
        return {"status": "absent", "reason": "; ".join(step["reason"] for step in wrong.values())}
    if wrong or not steps:
        reason = "; ".join(f"{name}: {step['reason']}" for name, step in wrong.items())
        return {"status": "failed", "reason": reason or "the process said nothing"}
    return {"status": "done", "reason": None}


def derive(document: dict[str, Any]) -> None:
    """Which models there are, shares of the roofline, and the bars; null where a section gave nothing."""
    found = document["sections"]
    document["models"] = [model for model in MODELS if any(f"/{model}/" in name for name in found)]
    rate = (found.get("card", {}).get("steps", {}).get("card") or {}).get("bandwidth_gbps")
    for section in found.values():
        step = section["steps"].get("latency", {})
        if step.get("ok"):
            moved = step["bytes_per_token"] * step["tokens_per_s"] / 1e9
            step["roofline_share"] = round(moved / rate, 3) if rate else None
    document["bars"] = {model: bars(found, model) for model in document["models"]}


def bars(found: dict[str, Any], model: str) -> dict[str, Any]:
    """The fastest engine in fp16 against transformers eager."""
    runs = {engine: _latency(found, f"{engine}/{model}/fp16") for engine in ENGINES}
    fastest = max((name for name in runs if runs[name]), key=lambda name: runs[name]["tokens_per_s"], default=None)
    eager = _latency(found, f"transformers/{model}/eager")
    if fastest is None:
        return {"engine": None, "decode_over_eager": None, "roofline_share": None, "ttft_over_eager": None}
    best = runs[fastest]
    return {
        "engine": fastest,
        "decode_over_eager": round(best["tokens_per_s"] / eager["tokens_per_s"], 2) if eager else None,
        "roofline_share": best.get("roofline_share"),
        "ttft_over_eager": round(best["ttft_ms"]["p50"] / eager["ttft_ms"]["p50"], 2) if eager else None,
    }


def _latency(found: dict[str, Any], name: str) -> dict[str, Any]:
    step: dict[str, Any] = found.get(name, {}).get("steps", {}).get("latency", {})
    return step if step.get("ok") else {}


def show(document: dict[str, Any]) -> None:
    """One row a section."""
    rows = []
    for name, section in document["sections"].items():
        step = _latency(document["sections"], name)
        verify = section["steps"].get("verify")
        parity = "-" if verify is None else "right" if verify["ok"] else "WRONG"
        share = step.get("roofline_share")
        rows.append(
            (
                name,
                section["status"],
                parity,
                cell(step.get("tokens_per_s")),
                cell(None if share is None else 100 * share, 0, " %"),
                cell(step.get("tpot_ms", {}).get("p99"), 2),
                cell(step.get("ttft_ms", {}).get("p50")),
                cell(step.get("vision_ms", {}).get("p50")),
            )
        )
    head = ("section", "", "parity", "tokens/s", "roofline", "TPOT p99, ms", "TTFT, ms", "vision, ms")
    print(table(head, rows))
    for name, section in document["sections"].items():
        if section["reason"]:
            print(f"{name}: {section['reason'][:300]}")
    print(f"bars: {json.dumps(document['bars'])}")


def resumed(path: Path, device: str, card: str | None) -> dict[str, Any]:
    """The sections of an earlier run on the same GPU, whatever became of them."""
    if not path.is_file():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    same = document.get("device") == device and document.get("card") == card
    return dict(document["sections"]) if same else {}


def write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def run(options: argparse.Namespace, card: str | None) -> dict[str, Any]:
    """All sections that are wanted and not yet done."""
    models = options.models.split(",")
    deadline = Deadline(None if options.minutes is None else time.monotonic() + 60 * options.minutes)
    document: dict[str, Any] = {
        "benchmark": "gpu",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": options.device,
        "card": card,
        "models": [],
        "rounds": options.rounds,
        "new_tokens": options.new_tokens,
        "sections": resumed(options.json, options.device, card),
        "bars": {},
        "machine": describe_machine(),
    }
    for name in wanted(models, options.only):
        before = document["sections"].get(name)
        if before is not None and before["status"] == "done" and not options.redo:
            print(f"{name}: done before", file=sys.stderr)
            continue
        if deadline.left_s() < LEAST_S:
            cut = {"status": "cut", "reason": "no time was left", "seconds": 0.0, "steps": {}}
            document["sections"].setdefault(name, cut)
        else:
            print(f"{name} ...", file=sys.stderr, flush=True)
            document["sections"][name] = run_section(section_command(name, options), deadline.left_s())
        derive(document)
        write(options.json, document)
    return document


def wanted(models: Sequence[str], only: str) -> list[str]:
    """Sections by pattern; the card always, because shares of the roofline need it."""
    return [name for name in sections(models) if name == "card" or fnmatch(name, only)]


def section_command(name: str, options: argparse.Namespace) -> list[str]:
    """Of the section's process."""
    command = [sys.executable, "-m", "benchmarks.gpu_section", name, "--work", str(options.work)]
    command += ["--device", options.device, "--rounds", str(options.rounds), "--new-tokens", str(options.new_tokens)]
    return [*command, "--tokenizer", str(options.tokenizer)] if options.tokenizer else command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="nano,3b", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--only", default="*", help="sections whose name fits this pattern")
    parser.add_argument("--minutes", type=float, help="stop after so long; run again to go on")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument(
        "--work", type=Path, default=Path("out/gpu"), help="for checkpoints and bundles (45 GB with 3b)"
    )
    parser.add_argument("--tokenizer", type=Path, default=_tokenizer(), help="the Qwen tokenizer.json, for 3b")
    parser.add_argument("--redo", action="store_true", help="measure again what was done before")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args(arguments)
    unknown = set(options.models.split(",")) - set(MODELS)
    if unknown or options.rounds < 1 or options.new_tokens < 2:
        parser.error(f"--models are of {', '.join(MODELS)}; at least 1 round and 2 new tokens")
    return options


def _tokenizer() -> Path | None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "qwen-tokenizer" / "tokenizer.json"
    path = Path(os.environ.get("FGR_EDGE_QWEN_TOKENIZER", beside))
    return path if path.is_file() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 1 where there is no GPU; 0 once all was recorded, good or bad."""
    options = parse(arguments)
    if options.dry_run:
        print("\n".join(wanted(options.models.split(","), options.only)))
        return 0
    card = None
    if options.device == "cuda":
        found, reason = find_card()
        if found is None:
            print(
                f"no NVIDIA GPU can be used here ({reason}); `--device cpu` drives the same code without",
                file=sys.stderr,
            )
            return 1
        card = found.name
    document = run(options, card)
    if options.device == "cuda":
        from benchmarks.gpu_plot import draw

        draw(document, options.json.with_suffix(".png"))
    show(document)
    publish(document, None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
