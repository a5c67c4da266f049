"""What can be wrong with a machine or an engine is found, and said, before a library could crash on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from fgr_edge.errors import EngineError, MissingExtraError
from fgr_edge.runtime.sessions import cuda_driver
from fgr_edge.runtime.sessions.tensorrt_library import Library
from tests.runtime.sessions import fake_tensorrt
from tests.runtime.sessions.fake_cuda import FakeCuda, cudaError_t
from tests.runtime.sessions.fake_tensorrt import VERSIONS, FakeLibrary, Offered, members, write_engine

Install = Callable[[str], FakeLibrary]


class Untouched(ModuleType):
    """A library that nobody may touch: without a driver it would end the process."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"tensorrt.{name} was asked for before the driver was looked at")


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Untouched("tensorrt"))


def test_no_driver(cuda: FakeCuda, untouched: None) -> None:
    cuda.driver = 0
    with pytest.raises(EngineError, match=r"no NVIDIA driver is loaded.*device='cpu'"):
        Library("tensorrt")


def test_no_gpu(cuda: FakeCuda, untouched: None) -> None:
    cuda.refused["cudaGetDeviceCount"] = cudaError_t.cudaErrorNoDevice
    with pytest.raises(EngineError, match=r"shows no GPU.*CUDA_VISIBLE_DEVICES"):
        Library("tensorrt")


def test_a_driver_too_old_for_cuda_python(cuda: FakeCuda, untouched: None) -> None:
    cuda.driver = 12060
    cuda.refused["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(
        EngineError, match=r"CUDA up to 12\.6, and cuda-python was built for 13\.5;.*'cuda-python==12\.\*'"
    ):
        Library("tensorrt")


def test_a_driver_too_old_for_the_library(cuda: FakeCuda, untouched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "tensorrt_cu13":
            raise metadata.PackageNotFoundError(name)
        return "11.4.0.106"

    monkeypatch.setattr(metadata, "version", version)
    cuda.driver = 12060
    with pytest.raises(
        EngineError, match=r"CUDA up to 12\.6, and the installed tensorrt was built for CUDA 13;.*-cu12"
    ):
        Library("tensorrt")


def test_a_gpu_that_does_not_answer(cuda: FakeCuda, untouched: None) -> None:
    cuda.refused["cudaGetDeviceCount"] = cudaError_t.cudaErrorSystemNotReady
    with pytest.raises(EngineError, match="cannot be used: cudaErrorSystemNotReady"):
        Library("tensorrt")


@pytest.mark.parametrize(
    ("product", "module", "extra"),
    [("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx")],
)
def test_a_missing_library_names_its_extra(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, product: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module} cannot be imported.*fgr-edge\[{extra}\].*JetPack"):
        Library(product)  # type: ignore[arg-type]


def test_missing_cuda_python_names_its_extra(untouched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"cuda-python is not installed.*fgr-edge\[tensorrt\]"):
        Library("tensorrt")


def test_the_gpu_is_known_by_name_and_generation(cuda: FakeCuda, installed: Install) -> None:
    installed("10.3.0")
    library = Library("tensorrt")
    assert (library.cuda.gpu.name, library.cuda.gpu.sm, library.version) == ("NVIDIA Fake 9000", 87, "10.3.0")


# Engines


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "decoder.engine"
    write_engine(path, tmp_path / "decoder.onnx", "10.13.3.9", [])
    return path


def test_an_engine_of_another_version_is_refused_with_what_the_library_says(installed: Install, engine: Path) -> None:
    installed("10.3.0")
    with pytest.raises(
        EngineError, match=r"tensorrt 10\.3\.0 cannot load .*is for version 10\.13\.3\.9.*fgr-edge build"
    ):
        Library("tensorrt").read_engine(engine)


def test_a_damaged_engine_is_refused(installed: Install, engine: Path) -> None:
    installed("10.13.3.9")
    engine.write_bytes(b"\0" * 100)
    with pytest.raises(EngineError, match=r"cannot load .*magicTag.*fgr-edge build"):
        Library("tensorrt").read_engine(engine)


def test_an_engine_larger_than_the_memory_is_not_read(cuda: FakeCuda, installed: Install, engine: Path) -> None:
    installed("10.13.3.9")
    library = Library("tensorrt")
    engine.write_bytes(b"\0" * 3_000_000)
    cuda.total_bytes = 2_000_000
    with pytest.raises(EngineError, match=r"decoder\.engine takes 3 MB and NVIDIA Fake 9000 has 2 of 2 MB free.*int4"):
        library.read_engine(engine)


def test_memory_that_is_the_hosts_counts_what_the_system_would_give_up(
    cuda: FakeCuda, installed: Install, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("10.13.3.9")
    cuda.integrated, cuda.total_bytes = 1, 2_000_000
    monkeypatch.setattr(cuda_driver, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:        8000 kB\nMemAvailable:    6000 kB\n")
    assert Library("tensorrt").cuda.free_bytes() == (6000 * 1024, 2_000_000)
    (tmp_path / "meminfo").unlink()
    assert Library("tensorrt").cuda.free_bytes() == (2_000_000, 2_000_000)


# What the fakes play


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fake_offers_only_what_the_bindings_of_its_version_offer(cuda: FakeCuda, version: str) -> None:
    library = FakeLibrary(version, cuda)
    offered = members(version)
    for name, value in vars(library).items():
        if isinstance(value, type) and issubclass(value, Offered):
            assert value._members == set(offered[name])
    hidden = FakeLibrary("10.3.0", cuda)
    assert not hasattr(hidden, "IRuntimeConfig")
    context = hidden._make("IExecutionContext", None)
    assert hasattr(context, "execute_async_v3") and not hasattr(context, "is_stream_capturable")


def test_what_fakes_can_do_exists_somewhere() -> None:
    known = [members(version) for version in VERSIONS]
    fakes = [value for value in vars(fake_tensorrt).values() if isinstance(value, type) and issubclass(value, Offered)]
    for fake in fakes:
        if fake is not Offered:
            public = {name for name in vars(fake) if not name.startswith("_")} - {"played"}
            everywhere = set().union(*(version.get(fake.played, []) for version in known))
            assert public <= everywhere, public - everywhere


def test_the_fake_gpu_has_no_function_that_cuda_python_has_not() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    played = {name for name in vars(FakeCuda) if name.startswith("cuda")}
    assert played <= set(dir(runtime)), played - set(dir(runtime))
    assert {code.name: int(code) for code in cudaError_t}.items() <= {
        code.name: int(code) for code in runtime.cudaError_t
    }.items()
    assert runtime.cudaHostAllocDefault == cuda_driver._HOST_ALLOC_DEFAULT
