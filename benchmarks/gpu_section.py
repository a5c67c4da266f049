"""One section of `gpu.py`, in a process of its own: a crash costs this one alone.

In: the name of a section. Out: one line of JSON for each step, printed as soon as it is done, `{"step": ..., "ok":
...}`; exit 0 whatever the steps gave. What a step lacks or raises is its reason; steps that stand on it are left out.

    card                               name, generation, memory, bandwidth
    ENGINE/MODEL/PRECISION             export, golden outputs, build (TensorRT), verify, latency
    transformers/MODEL/eager|compiled  latency

ENGINE is onnxruntime, tensorrt or tensorrt-rtx. With `--device cpu` the same steps run on ONNX Runtime's CPU, engines
are not built, and the times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from fgr_edge.runtime.opening import Device

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Engine = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "tensorrt-rtx", "tensorrt")
TARGETS: dict[Engine, Device] = {"onnxruntime": "cuda", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
MODELS = {"nano": None, "3b": "qwen2.5-vl-3b", "tiny": "qwen2.5-vl-tiny"}  # tiny: of random weights, for tests
PRECISIONS = ("fp16", "int8", "int4")
IMAGE_SIZE = (640, 480)
REPOSITORY = Path(__file__).resolve().parents[1]


class Absent(Exception):
    """Something that this section needs is not here; the message says what."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How every section is run.

    Attributes:
        work: folder for checkpoints and bundles.
        tokenizer: the Qwen tokenizer.json, which random checkpoints need.
    """

    work: Path
    device: Literal["cuda", "cpu"]
    rounds: int
    new_tokens: int
    tokenizer: Path | None


def say(step: str, document: dict[str, Any]) -> None:
    """One step is done."""
    print(json.dumps({"step": step, **document}, ensure_ascii=False), flush=True)


def attempt(step: str, work: Callable[[], dict[str, Any]]) -> bool:
    """Do a step and say what it gave, or why it gave nothing; returns whether it succeeded."""
    started = time.perf_counter()
    try:
        found = {"ok": True, **work()}
    except Absent as error:
        found = {"ok": False, "absent": True, "reason": str(error)}
    except Exception as error:  # a benchmark loses no section to another's fault
        found = {"ok": False, "reason": f"{type(error).__name__}: {error}"[:2000]}
    say(step, {**found, "seconds": round(time.perf_counter() - started, 2)})
    return bool(found["ok"])


def run_section(name: str, setting: Setting) -> None:
    """All steps of a section."""
    first, *rest = name.split("/")
    if name == "card":
        attempt("card", lambda: card(setting))
    elif first == "transformers":
        attempt("latency", lambda: transformers_latency(rest[0], rest[1], setting))
    else:
        engine_steps(cast(Engine, first), rest[0], rest[1], setting)


def card(setting: Setting) -> dict[str, Any]:
    """What the GPU is and how fast its memory is; the host's memory with `--device cpu`."""
    if setting.device == "cpu":
        from fgr_edge.bench.bandwidth import ReadBandwidth

        return {"name": "CPU", "bandwidth_gbps": round(ReadBandwidth().gbps(0.2), 1), "bandwidth_of": "reads by numpy"}
    from benchmarks.gpu_card import copy_gbps, find_card

    found, reason = find_card()
    if found is None:
        raise Absent(reason)
    return {**asdict(found), "bandwidth_gbps": round(copy_gbps(found), 1), "bandwidth_of": "copies on the device"}


def engine_steps(engine: Engine, model: str, precision: str, setting: Setting) -> None:
    """Export to latency; verification that fails does not keep the times from being taken, and is told beside them."""
    if not attempt("installed", lambda: installed(engine, setting)):
        return
    bundle = setting.work / f"{model}-{engine}-{precision}"
    if not attempt("export", lambda: export(model, precision, TARGETS[engine], bundle, setting)):
        return
    golden = attempt("golden", lambda: golden_outputs(model, bundle, setting))
    if engine != "onnxruntime" and setting.device == "cuda" and not attempt("build", lambda: build(bundle)):
        return
    if golden:
        attempt("verify", lambda: verified(bundle, engine, setting))
    attempt("latency", lambda: latency(bundle, engine, setting))


def installed(engine: Engine, setting: Setting) -> dict[str, Any]:
    """The engine's version.

    Raises:
        Absent: it is not installed, or cannot use this GPU.
    """
    if engine == "onnxruntime" or setting.device == "cpu":
        try:
            import onnxruntime
        except ImportError as error:
            raise Absent("onnxruntime is not installed") from error
        providers = onnxruntime.get_available_providers()
        if setting.device == "cuda" and "CUDAExecutionProvider" not in providers:
            raise Absent(f"onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider; onnxruntime-gpu has")
        return {"version": onnxruntime.__version__, "providers": providers}
    from fgr_edge.errors import FgrEdgeError
    from fgr_edge.export.tensorrt import load_library
    from fgr_edge.runtime.sessions.cuda_driver import open_cuda

    try:
        version = load_library(engine).version
        open_cuda(engine)  # before minutes are spent on what it is needed for
        return {"version": version}
    except FgrEdgeError as error:
        raise Absent(str(error)) from error


def checkpoint(model: str, setting: Setting) -> Path:
    """The folder of the model; one of random weights is written where it is not there.

    Raises:
        Absent: no tokenizer for it.
    """
    shape = MODELS[model]
    if shape is None:
        return REPOSITORY / "models" / model
    from benchmarks.random_checkpoint import SHAPES, write_checkpoint

    folder = setting.work / shape
    if not (folder / "config.json").exists():
        if setting.tokenizer is None or not setting.tokenizer.is_file():
            raise Absent(f"a checkpoint of shape {shape} needs the Qwen tokenizer.json: give --tokenizer FILE")
        write_checkpoint(folder, SHAPES[shape], tokenizer=setting.tokenizer)
    return folder


def export(model: str, precision: str, target: str, bundle: Path, setting: Setting) -> dict[str, Any]:
    """Write the bundle, unless it is there. Random weights have nothing to calibrate: int4 is rounded to nearest."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
    from fgr_edge.runtime.bundle import Bundle

    if not (bundle / "manifest.json").exists():
        export_checkpoint(
            ExportConfig(
                checkpoint(model, setting), bundle, target, precision,
                method="nearest" if precision == "int4" else None,
                image_size=IMAGE_SIZE, proof=False, screened=False if target == "cpu" else None, quiet=True, force=True,
            )
        )  # fmt: skip
    manifest = Bundle.open(bundle).manifest
    total = sum(entry["size"] for entry in manifest["files"].values())
    return {"bundle_bytes": total, "precision": manifest["precision"], "dialect": manifest["dialect"]}


def golden_outputs(model: str, bundle: Path, setting: Setting) -> dict[str, Any]:
    """What the original gives, computed on the CPU in float32, into the bundle."""
    from fgr_edge.calibrate.golden import GOLDEN, make_golden, store_golden
    from fgr_edge.export.tensor_places import tensor_places
    from fgr_edge.runtime.bundle import Bundle

    if GOLDEN in Bundle.open(bundle):
        return {}
    original = setting.work / f"{model}-original"
    export(model, "fp32", "cpu", original, setting)
    store_golden(bundle, make_golden(original, bundle, tensors=tensor_places(bundle)))
    return {}


def build(bundle: Path) -> dict[str, Any]:
    """Engines for the GPU that is here; the builder verifies them itself and installs none that is wrong."""
    from fgr_edge.export.engine_build import BuildConfig, build_engines

    built = build_engines(BuildConfig(bundle, quiet=True))
    sizes = {name: engine.size_bytes for name, engine in built.record.engines.items()}
    return {"graph_seconds": built.seconds, "peak_bytes": built.peak_bytes, "engine_bytes": sizes, "fresh": built.fresh}


def verified(bundle: Path, engine: Engine, setting: Setting) -> dict[str, Any]:
    """Parity of every stage: largest error over its bound.

    Raises:
        RuntimeError: a stage is wrong.
    """
    from fgr_edge.calibrate.verify import verify

    report = verify(bundle, None, no_progress, device=device_of(engine, setting))
    stages = {
        stage["name"]: {
            "status": stage["status"],
            "found": stage["found"],
            "worst_over_bound": max(
                (c["error"] / c["bound"] for c in stage["checks"] if c["error"] and c["bound"]), default=None
            ),
        }
        for stage in report["stages"]
    }
    if not report["passed"]:
        raise RuntimeError(
            f"{report['first_wrong']}: {json.dumps(stages[report['first_wrong'] or ''])}; {report['likely_cause']}"
        )
    return {"stages": stages}


def latency(bundle: Path, engine: Engine, setting: Setting) -> dict[str, Any]:
    """`fgr-edge bench` on drawn pictures: stages, first token, time per token."""
    from fgr_edge.bench.benchmark import bench
    from fgr_edge.bench.config import BenchConfig

    config = BenchConfig(
        bundle, prompt_tokens=(), new_tokens=(setting.new_tokens,), rounds=setting.rounds, warmups=2,
        modes=("direct",), starts=0, device=device_of(engine, setting), work_s=0.5,
    )  # fmt: skip
    document = bench(config, no_progress)
    decode, answers = document["decode"][0], document["answers"]["direct"]
    names = ("preprocess_ms", "prefill_ms", "ttft_ms")
    return {
        "vision_ms": _tails(vision_ms(bundle, device_of(engine, setting), setting.rounds)),
        "tpot_ms": _tails(decode["tpot_ms"]),
        "tokens_per_s": decode["tokens_per_s"]["p50"],
        "bytes_per_token": decode["bytes_per_token"],
        **{name: _tails(answers["stages"][name]) for name in names},
        "prompt_tokens": answers["stages"]["prompt_tokens"]["p50"],
        "joules": document["energy"],
    }


def vision_ms(bundle: Path, device: Device, rounds: int) -> Any:
    """From patches to embeddings on the host. An answer's own `vision_ms` is not that: TensorRT is not waited for."""
    from tempfile import TemporaryDirectory

    from fgr_edge import Recognizer
    from fgr_edge.bench.pictures import open_pictures
    from fgr_edge.bench.spread import spread

    recognizer = Recognizer(bundle, device=device)
    times = []
    with TemporaryDirectory() as folder:
        pictures = [recognizer.model.patches(picture) for picture in open_pictures(None, Path(folder))]
        for number in range(rounds + 2):
            started = time.perf_counter()
            recognizer.model.vision.encode(pictures[number % len(pictures)]).tokens.mean()
            times.append((time.perf_counter() - started) * 1e3)
    return spread(times[2:])


def transformers_latency(model: str, kind: str, setting: Setting) -> dict[str, Any]:
    """The same pictures, the same question, as many tokens."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise Absent(f"{error.name} is not installed") from error
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise Absent(f"torch {torch.__version__} sees no CUDA device")
    from tempfile import TemporaryDirectory

    from benchmarks.gpu_transformers import TransformersOnGpu
    from fgr_edge.bench.pictures import open_pictures

    dtype: Literal["float16", "float32"] = "float16" if setting.device == "cuda" else "float32"
    peer = TransformersOnGpu(checkpoint(model, setting), setting.device, dtype, compiled=kind == "compiled")
    first, tpot = [], []
    with TemporaryDirectory() as folder:
        pictures = open_pictures(None, Path(folder))
        for number in range(setting.rounds + 2):
            ttft_ms = peer.first_token(pictures[number % len(pictures)]).ms
            decoded = peer.decode(setting.new_tokens)
            if number >= 2:
                first.append(ttft_ms)
                tpot.append(decoded.ms_per_token)
    from fgr_edge.bench.spread import spread

    found = spread(tpot)
    return {
        "dtype": dtype,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ttft_ms": _tails(spread(first)),
        "tpot_ms": _tails(found),
        "tokens_per_s": round(1000 / (found["p50"] or 1), 3),
        "bytes_per_token": peer.decoder_bytes(),
    }


def device_of(engine: Engine, setting: Setting) -> Device:
    """What `Recognizer` is told."""
    return "cpu" if setting.device == "cpu" else TARGETS[engine]


def _tails(found: Any) -> dict[str, Any]:
    return {key: found[key] for key in ("p50", "p99", "n")}


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Nothing is shown: the section's output is for a program."""
    yield lambda count: None


def main() -> None:
    """The command line; `gpu.py` calls it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    setting = Setting(given.work, given.device, given.rounds, given.new_tokens, given.tokenizer)
    # What libraries print on stdout must not get between the lines.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run_section(given.name, setting)


if __name__ == "__main__":
    main()
