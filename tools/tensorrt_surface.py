"""Lists what TensorRT's Python bindings offer, version by version, without the library that they bind.

    python tools/tensorrt_surface.py                      # all of VERSIONS, into tests/data/tensorrt_api/<version>.json
    python tools/tensorrt_surface.py --version 11.4.0.106 --output /tmp/api

Bindings are published as wheels of about 1 MB, apart from the libraries. They import as soon as the dynamic linker
finds libraries with the symbols that they name: a stub that defines these is compiled here (cc), and the bindings are
imported on it in a process of their own, which only asks for names. No object of TensorRT is made, nothing computed.

The documents are what `tests/export/test_tensorrt_api.py` holds the code against. Needs pip, a C compiler, and a Python
of the version that the wheels are for (`--python`; 3.11 has one of every version).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[1] / "tests" / "data" / "tensorrt_api"
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)


@dataclass(frozen=True, slots=True)
class Bindings:
    """One wheel of bindings: its package and version, the module in it, and the libraries that it is linked to."""

    package: str
    version: str
    module: str
    libraries: tuple[str, ...]


def _tensorrt(version: str) -> Bindings:
    major = version.partition(".")[0]
    names = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
    libraries = tuple(f"{name}.so.{major}" for name in names)
    return Bindings("tensorrt-cu12-bindings", version, "tensorrt_bindings", libraries)


def _rtx(version: str) -> Bindings:
    libraries = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
    return Bindings("tensorrt-rtx-cu13-bindings", version, "tensorrt_rtx_bindings", libraries)


VERSIONS: Mapping[str, Bindings] = {
    # JetPack 6.1 and 6.2; 7.0 and 7.1; 7.2; the newest.
    **{version: _tensorrt(version) for version in ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")},
    "rtx-1.7.1.116": _rtx("1.7.1.116"),
}

MODULE = "module"  # the key of the names that the module itself has
CLASSES = (
    *("Builder", "INetworkDefinition", "IBuilderConfig", "IOptimizationProfile", "ITimingCache", "IHostMemory"),
    *("OnnxParser", "ParserError", "ITensor", "ILayer", "Logger", "ILogger", "IErrorRecorder", "IProgressMonitor"),
    *("Runtime", "IRuntimeConfig", "IRuntimeCache", "ICudaEngine", "IExecutionContext", "ISerializationConfig"),
    *("Refitter", "OnnxParserRefitter", "IStreamReaderV2", "IStreamWriter", "IGpuAllocator", "IOutputAllocator"),
    # Enumerations.
    *("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "OnnxParserFlag", "SerializationFlag"),
    *("TensorIOMode", "TensorLocation", "TensorFormat", "DataType", "ComputeCapability", "HardwareCompatibilityLevel"),
    *("ExecutionContextAllocationStrategy", "CudaGraphStrategy", "ProfilingVerbosity", "PreviewFeature"),
    *("DynamicShapesKernelSpecializationStrategy", "EngineCapability", "LayerInformationFormat", "TacticSource"),
)

# Run by the process that imports the bindings; it prints one JSON object.
_LIST = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
module = importlib.import_module(sys.argv[2])
def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))
print(json.dumps({
    "version": module.__version__,
    "members": {"module": public(module)} | {
        name: public(getattr(module, name)) for name in sys.argv[3:] if hasattr(module, name)
    },
}))
"""


def surface(bindings: Bindings, python: str) -> dict[str, object]:
    """What the bindings offer: {"package", "version", "members": {class: names}}, public names in order."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = f"{bindings.package}=={bindings.version}"
        _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), wanted)
        libraries = stub_libraries(bindings.libraries, folder / "lib")
        arguments = (str(folder / "site"), bindings.module, *CLASSES)
        listed = _run(python, "-c", _LIST, *arguments, LD_LIBRARY_PATH=str(libraries))
    found = json.loads(listed)
    return {"package": bindings.package, "version": found["version"], "members": found["members"]}


def stub_libraries(names: tuple[str, ...], folder: Path) -> Path:
    """Shared libraries called `names` in `folder`; each has every symbol, and none may be called."""
    folder.mkdir(parents=True)
    source = folder / "stub.c"
    source.write_text("#include <stdlib.h>\n" + "".join(f"void {name}(void) {{ abort(); }}\n" for name in SYMBOLS))
    for name in names:
        _run("cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source))
    return folder


def write_surface(version: str, output: Path, python: str) -> Path:
    """List one version of `VERSIONS` into its file."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{version}.json"
    path.write_text(_text(surface(VERSIONS[version], python)), encoding="utf-8")
    return path


def _text(document: Mapping[str, object]) -> str:
    """JSON with one class a line: small in the repository, and a change of a class is a change of its line."""
    members = document["members"]
    assert isinstance(members, dict)
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(members[name])}" for name in sorted(members))
    head = "".join(f"  {json.dumps(key)}: {json.dumps(document[key])},\n" for key in ("package", "version"))
    return "{\n" + head + '  "members": {\n' + lines + "\n  }\n}\n"


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=list(VERSIONS), action="append", help="repeated; all of them if left out")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the documents")
    parser.add_argument("--python", default=sys.executable, help="interpreter that the wheels are for, with pip")
    options = parser.parse_args()
    for version in options.version or VERSIONS:
        print(write_surface(version, options.output, options.python))


if __name__ == "__main__":
    main()
