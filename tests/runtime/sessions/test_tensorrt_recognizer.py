"""A whole bundle through the TensorRT session, on a fake GPU that computes its graphs with ONNX Runtime on the CPU.

The same graphs run without the fake (`device="cpu"`) are what everything is compared with. Not run on hardware.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.engine_record import (
    EngineFile,
    EngineProfile,
    EngineRecord,
    Shape,
    find_engines,
    folder_name,
    write_record,
)
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.request import Request
from tests.runtime.sessions.fake_cuda import FakeCuda
from tests.runtime.sessions.fake_tensorrt import FakeLibrary, write_engine

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")

Install = Callable[[str], FakeLibrary]
Range = tuple[int, int, int]
SLOTS, CHUNK, ROWS = 1024, 48, 16
DECODER: Mapping[str, Mapping[str, Range]] = {
    "prefill": {"sequence": (1, CHUNK, CHUNK), "rows": (1, 1, CHUNK)},
    "decode": {"sequence": (1, 1, 1), "rows": (1, 1, 1)},
}
HEAD: Mapping[str, Mapping[str, Range]] = {"rows": {"rows": (1, ROWS, ROWS)}, "decode": {"rows": (1, 1, 1)}}
VISION: Mapping[str, Mapping[str, Range]] = {
    "any": {"patches": (4, 400, 2000), "tokens": (1, 100, 500), "windows": (1, 9, 100)}
}
RANGES = {"decoder": DECODER, "head": HEAD, "vision": VISION}


@pytest.fixture(scope="session")
def exported(nano_checkpoint: Path, nano_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`exported("fp16")`: models/nano for TensorRT, graphs only."""
    made: dict[tuple[str, str], Path] = {}

    def export(precision: str, target: str) -> Path:
        from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

        if (precision, target) not in made:
            folder = tmp_path_factory.mktemp("tensorrt") / "bundle"
            made[precision, target] = export_checkpoint(
                ExportConfig(nano_checkpoint, folder, target, precision, labels=nano_labels, proof=False, quiet=True)
            )
        return made[precision, target]

    return export


@pytest.fixture
def built(exported: Callable[..., Path], installed: Install, tmp_path: Path) -> Callable[..., Path]:
    """`built("10.3.0", "fp32")`: a bundle with engines of the fake library, which can be imported."""

    def build(version: str, precision: str = "fp32") -> Path:
        installed(version)
        product = "tensorrt-rtx" if version.startswith("rtx-") else "tensorrt"
        bundle = tmp_path / "bundle"
        shutil.copytree(exported(precision, product), bundle, copy_function=_linked)
        name, number = "NVIDIA Fake 9000", version.removeprefix("rtx-")
        folder = bundle / "engines" / folder_name(product, number, name, (87,))  # type: ignore[arg-type]
        folder.mkdir(parents=True)
        engines = {graph: _engine(bundle, folder, graph, version) for graph in RANGES}
        write_record(folder, EngineRecord(product, number, name, (87,), (), SLOTS, engines))  # type: ignore[arg-type]
        return bundle

    return build


def _linked(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _engine(bundle: Path, folder: Path, graph: str, version: str) -> EngineFile:
    """An engine as `fgr-edge build` would make it: all that is asked of it is which sizes it takes."""
    path, source = folder / f"{graph}.engine", bundle / f"{graph}.onnx"
    session = ort.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    dims = {value.name: value.shape for value in session.get_inputs()}
    profiles = tuple(EngineProfile(name, _shapes(dims, ranges)) for name, ranges in RANGES[graph].items())
    write_engine(path, source, version, [profile.inputs for profile in profiles], {"cache_length": SLOTS})
    files = Bundle.open(bundle).manifest["files"]
    sources = {name: files[name]["sha256"] for name in (source.name, f"{source.name}.data") if name in files}
    return EngineFile(path.name, "0" * 64, path.stat().st_size, sources, profiles)


def _shapes(dims: Mapping[str, list[int | str]], ranges: Mapping[str, Range]) -> dict[str, tuple[Shape, Shape, Shape]]:
    found = {}
    for name, shape in dims.items():
        open_dims = [dim for dim in shape if isinstance(dim, str) and dim != "cache_length"]
        if open_dims:
            least, usual, most = (tuple(_size(dim, ranges, position) for dim in shape) for position in range(3))
            found[name] = (least, usual, most)
    return found


def _size(dim: int | str, ranges: Mapping[str, Range], position: int) -> int:
    if isinstance(dim, int):
        return dim
    return SLOTS if dim == "cache_length" else ranges[dim][position]


@pytest.mark.parametrize(
    ("version", "precision"),
    [("10.3.0", "fp32"), ("11.4.0.106", "fp16"), ("rtx-1.7.1.116", "fp32")],
)
def test_a_bundle_answers_as_its_graphs_do(
    built: Callable[..., Path], birds: Callable[[int], list[Path]], version: str, precision: str
) -> None:
    bundle = built(version, precision)
    on_gpu, on_cpu = Recognizer(bundle), Recognizer(bundle, device="cpu", threads=1)
    for picture in birds(2):
        gpu, cpu = on_gpu.evidence(picture).log_probs, on_cpu.evidence(picture).log_probs
        np.testing.assert_allclose(gpu, cpu, atol=1e-4 if precision == "fp32" else 2e-2)
        found, expected = on_gpu(picture), on_cpu(picture)
        assert found.label == expected.label
        assert found.probability == pytest.approx(expected.probability, abs=1e-4 if precision == "fp32" else 2e-2)
    assert {width for _, _, width in on_gpu.model.decoder._calls} == {1}, "trees of one size are one bound call"


def test_reasoning_is_the_same_text_and_one_launch_a_token(
    built: Callable[..., Path], birds: Callable[[int], list[Path]], cuda: FakeCuda
) -> None:
    bundle, picture = built("10.13.3.9"), birds(1)[0]
    plain = Recognizer(bundle, device="cpu", threads=1, speculate=False)
    expected = plain(picture, mode="reason", think_budget=40)
    recognizer = Recognizer(bundle)
    for _ in range(2):  # buffers, contexts and graphs are made; nothing waits from the second picture on
        recognizer(picture, mode="reason", think_budget=40)
    cuda.calls.clear()
    found = recognizer(picture, mode="reason", think_budget=40)
    assert found.text == expected.text
    launches, waits = (cuda.calls.count(name) for name in ("cudaGraphLaunch", "cudaStreamSynchronize"))
    tokens = found.timings.generated_tokens
    assert launches >= tokens > 20, "decoder and head of every token are launched, not enqueued anew"
    assert waits <= launches, "one wait for each token that was read"
    assert "cudaMalloc" not in cuda.calls and "cudaHostAlloc" not in cuda.calls


def test_prompts_longer_than_a_chunk_are_read_in_chunks(
    built: Callable[..., Path], birds: Callable[[int], list[Path]]
) -> None:
    bundle, picture = built("10.16.1.11"), birds(1)[0]
    recognizer = Recognizer(bundle)
    context = recognizer.stages(picture, max_new_tokens=8)
    assert recognizer.model.decoder.length > CHUNK, "the picture alone is longer"
    assert recognizer.model.decoder.chunk_tokens == CHUNK
    expected = Recognizer(bundle, device="cpu", threads=1).stages(picture, max_new_tokens=8)
    np.testing.assert_array_equal(context.tokens, expected.tokens)
    np.testing.assert_allclose(context.token_logits, expected.token_logits, atol=1e-3)


def test_an_answer_longer_than_the_cache_is_refused_before_it_begins(
    built: Callable[..., Path], birds: Callable[[int], list[Path]]
) -> None:
    from fgr_edge.runtime.sampling import SamplingConfig

    recognizer = Recognizer(built("10.3.0"))
    with pytest.raises(EngineError, match=r"and the engine's cache has 1024.*--cache-length"):
        recognizer(birds(1)[0], mode="reason", sampling=SamplingConfig(max_new_tokens=SLOTS - 200))


@pytest.mark.parametrize("version", ["10.3.0", "rtx-1.7.1.116"])
def test_a_picture_is_seen_and_read_without_waiting_for_anything_but_the_logits(
    built: Callable[..., Path], birds: Callable[[int], list[Path]], cuda: FakeCuda, version: str
) -> None:
    """Its prompt is several chunks long: none waits for the one before, nor for vision."""
    bundle, (first, second) = built(version), birds(2)
    recognizer = Recognizer(bundle, keep_picture=True)
    expected = [Recognizer(bundle, device="cpu", threads=1).stages(picture).logits for picture in (first, second)]
    width = recognizer.bundle.manifest["decoder"]["hidden"] * 4
    for picture in (first, second, first):  # buffers, contexts and graphs are made
        recognizer._reader.read(picture, Request("direct"))
    for picture, logits in ((second, expected[1]), (first, expected[0])):
        cuda.calls.clear()
        cuda.copies.clear()
        context = recognizer._reader.read(picture, Request("direct"))
        waits = [place for place, name in enumerate(cuda.calls) if name.endswith("Synchronize")]
        assert waits == [len(cuda.calls) - 1], "the logits are the last of all, and all that is waited for"
        assert [size for kind, size in cuda.copies if kind == 2] == [logits.nbytes], "and all that comes down"
        placed = [size for kind, size in cuda.copies if kind == 3][1:]  # the first keeps them from the next picture
        assert len(placed) > 1 and sum(placed) == context.embeds.count * width
        np.testing.assert_allclose(context.logits, logits, atol=1e-3)
    assert "cudaMalloc" not in cuda.calls and "cudaHostAlloc" not in cuda.calls


def test_embeddings_come_down_when_they_are_asked_for_and_once(
    built: Callable[..., Path], birds: Callable[[int], list[Path]], cuda: FakeCuda
) -> None:
    bundle, pictures = built("10.3.0"), birds(2)
    recognizer = Recognizer(bundle)
    seen = [recognizer.see(picture) for picture in pictures]
    expected = [Recognizer(bundle, device="cpu", threads=1).see(picture).tokens for picture in pictures]
    assert not [kind for kind, _ in cuda.copies if kind == 2]
    for embeds, tokens in zip(seen, expected, strict=True):
        np.testing.assert_allclose(embeds.tokens, tokens, atol=1e-3)
        cuda.calls.clear()
        assert embeds.tokens.shape == (embeds.count, tokens.shape[1]) and not cuda.calls


def test_an_answer_without_an_outlier_rule_never_brings_embeddings_down(
    built: Callable[..., Path], birds: Callable[[int], list[Path]], cuda: FakeCuda
) -> None:
    recognizer, (picture,) = Recognizer(built("10.3.0")), birds(1)
    recognizer(picture)
    vocab, down = recognizer.bundle.manifest["decoder"]["vocab"], [size for kind, size in cuda.copies if kind == 2]
    assert down and all(size % (4 * vocab) == 0 for size in down), "logits, and nothing else"
    cuda.copies.clear()
    features = recognizer.evidence(picture).features
    assert [size for kind, size in cuda.copies if kind == 2 and size % (4 * vocab)], "calibration asks for them"
    assert features.shape == (recognizer.bundle.manifest["decoder"]["hidden"],)


# Which engines


def test_a_bundle_without_engines_says_how_to_build_them(exported: Callable[..., Path], installed: Install) -> None:
    installed("10.3.0")
    with pytest.raises(
        EngineError, match=r"has no engines for NVIDIA Fake 9000 \(SM87\) with tensorrt 10\.3\.0.*fgr-edge build"
    ):
        Recognizer(exported("fp32", "tensorrt"))


def test_engines_of_another_version_are_not_opened(built: Callable[..., Path], installed: Install) -> None:
    bundle = built("10.3.0")
    installed("10.13.3.9")
    with pytest.raises(EngineError, match=r"with tensorrt 10\.13\.3\.9; it has tensorrt 10\.3\.0 for NVIDIA Fake 9000"):
        Recognizer(bundle)


def test_engines_of_another_gpu_are_not_opened(built: Callable[..., Path], cuda: FakeCuda) -> None:
    bundle = built("10.3.0")
    cuda.name = "NVIDIA Fake 9100"
    with pytest.raises(EngineError, match=r"no engines for NVIDIA Fake 9100"):
        Recognizer(bundle)


def test_engines_of_other_weights_are_not_opened(built: Callable[..., Path]) -> None:
    bundle = built("10.3.0")
    record = find_engines(bundle, "tensorrt", "10.3.0", "NVIDIA Fake 9000", 87)
    assert record.folder is not None
    other = replace(record.engines["decoder"], sources={"decoder.onnx": "f" * 64})
    write_record(record.folder, replace(record, engines={**record.engines, "decoder": other}))
    with pytest.raises(EngineError, match=r"built from another decoder\.onnx"):
        Recognizer(bundle)


def test_a_bundle_for_the_cpu_has_no_graphs_for_tensorrt(nano_bundle: Callable[..., Path], installed: Install) -> None:
    installed("10.3.0")
    with pytest.raises(EngineError, match=r"for target 'cpu', whose graphs tensorrt does not build"):
        Recognizer(nano_bundle("fp32"), device="tensorrt")
