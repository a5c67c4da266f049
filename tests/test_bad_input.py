"""Bad input, from the outside: one clear line on stderr, exit 1, nothing half done left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fgr_edge.runtime.bundle import Bundle

pytest.importorskip("transformers")

if TYPE_CHECKING:
    from tests.tiny import TinyModels

DRIVER = """
import resource, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from fgr_edge.cli import main
main()
"""


def command(*arguments: object, file_bytes: int = 0) -> list[str]:
    """The command as a process that may write files of at most `file_bytes` (0: any)."""
    return [sys.executable, "-c", DRIVER, str(file_bytes), *map(str, arguments)]


def fails(*arguments: object, file_bytes: int = 0) -> str:
    """Run a command that must exit 1 with nothing but one line on stderr; returns the line."""
    done = subprocess.run(
        command(*arguments, file_bytes=file_bytes), capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("fgr-edge: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def bundle(tiny_models: TinyModels, tmp_path: Path) -> Path:
    """A copy of the "qwen2.5" bundle, to be damaged."""
    return shutil.copytree(tiny_models.bundle("qwen2.5"), tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    return path


# Checkpoints and options


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    line = fails("export", tmp_path / "folder", "-o", tmp_path / "bundle")
    assert str(tmp_path / "folder") in line and "config.json" in line
    assert contents(tmp_path) == {"folder"}


def test_an_unsupported_architecture_lists_the_supported_ones(tiny_models: TinyModels, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_models.checkpoint("qwen2.5"), tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "internvl"}))
    line = fails("export", checkpoint, "-o", tmp_path / "bundle")
    assert "'internvl' is not supported; supported: qwen2_5_vl, qwen3_vl" in line
    assert contents(tmp_path) == {"checkpoint"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "npu"), "target 'npu' is not supported; choose one of cpu, cuda"),
        (("--precision", "int2"), "precision 'int2' is not known; choose one of fp32, fp16, bf16, int8, int4"),
    ],
)
def test_unknown_targets_and_precisions_list_what_there_is(
    tiny_models: TinyModels, tmp_path: Path, options: tuple[str, str], words: str
) -> None:
    assert words in fails("export", tiny_models.checkpoint("qwen2.5"), "-o", tmp_path / "bundle", *options)
    assert contents(tmp_path) == set()


def test_an_existing_output_is_kept(tiny_models: TinyModels, bundle: Path) -> None:
    line = fails("export", tiny_models.checkpoint("qwen2.5"), "-o", bundle)
    assert f"{bundle} exists already; give --force to replace it" in line
    Bundle.open(bundle, verify="full")


def test_an_output_that_is_no_bundle_is_kept_even_with_force(tiny_models: TinyModels, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    line = fails("export", tiny_models.checkpoint("qwen2.5"), "-o", tmp_path / "thesis", "--force")
    assert "no bundle" in line and "name a new folder" in line
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


# Full disks and sudden ends


@pytest.mark.parametrize("file_bytes", [30_000, 200_000, 650_000], ids=["embedding", "vision", "decoder"])
def test_a_full_disk_in_mid_export_leaves_nothing(tiny_models: TinyModels, tmp_path: Path, file_bytes: int) -> None:
    arguments = (
        "export",
        tiny_models.checkpoint("qwen2.5"),
        "-o",
        tmp_path / "bundle",
        "--no-proof",
        "--precision",
        "fp32",
    )
    line = fails(*arguments, file_bytes=file_bytes)
    assert f"cannot write the bundle {tmp_path / 'bundle'}: " in line and "Free some space" in line
    assert contents(tmp_path) == set()


def test_a_full_disk_while_replacing_keeps_the_old_bundle(tiny_models: TinyModels, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    fails("export", tiny_models.checkpoint("qwen2.5"), "-o", bundle, "--force", "--no-proof", file_bytes=100_000)
    assert (bundle / "manifest.json").read_bytes() == before
    Bundle.open(bundle, verify="full")
    assert contents(bundle.parent) == {"bundle"}


def test_a_killed_export_leaves_no_bundle_and_a_second_run_works(tmp_path: Path) -> None:
    from tests.tiny import qwen2_5_vl, save

    save(qwen2_5_vl(heads=32, kv_heads=2), tmp_path / "checkpoint")  # 40 MB: some tenths of a second to write
    arguments = command(
        "export", tmp_path / "checkpoint", "-o", tmp_path / "bundle", "--precision", "fp32", "--no-proof"
    )
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(".bundle.partial-*/**/decoder.onnx.data")) and time.monotonic() < deadline:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    assert len(list(tmp_path.glob(".bundle.partial-*"))) == 1
    again = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    Bundle.open(tmp_path / "bundle", verify="full")
    assert contents(tmp_path) == {"checkpoint", "bundle"}


# Bundles


@pytest.mark.parametrize("name", ["decoder.onnx.data", "vision.onnx", "embedding.bin", "tokenizer.json"])
def test_a_changed_byte_is_named(bundle: Path, picture: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    line = fails("recognize", bundle, picture)
    assert f"{name} has changed" in line and "Copy it again" in line


def test_a_missing_and_a_shortened_file_are_named(bundle: Path, picture: Path) -> None:
    (bundle / "vision.onnx").unlink()
    data = (bundle / "embedding.bin").read_bytes()
    (bundle / "embedding.bin").write_bytes(data[:-4])
    line = fails("recognize", bundle, picture)
    assert "vision.onnx is missing" in line
    assert f"embedding.bin has {len(data) - 4} bytes, expected {len(data)}" in line


def edit_manifest(bundle: Path, **values: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **values}))


def test_a_newer_bundle_asks_for_an_upgrade(bundle: Path, picture: Path) -> None:
    edit_manifest(bundle, schema_version=99)
    line = fails("recognize", bundle, picture)
    assert "manifest.json has schema_version 99, this fgr-edge reads up to 1; upgrade it" in line


def test_an_edited_manifest_is_refused(bundle: Path, picture: Path) -> None:
    edit_manifest(bundle, name="other")
    assert "manifest.json has changed since it was written" in fails("recognize", bundle, picture)


def test_a_path_that_climbs_out_is_refused(bundle: Path, picture: Path) -> None:
    from fgr_edge.runtime.manifest import sealed

    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../good.png"] = {"size": picture.stat().st_size, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(sealed(manifest)))
    line = fails("recognize", bundle, picture)
    assert "lists the file '../good.png'; expected a relative path inside the bundle" in line


def test_what_is_no_bundle_is_refused(tiny_models: TinyModels, picture: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in fails("recognize", tmp_path / "nowhere", picture)
    line = fails("inspect", tiny_models.checkpoint("qwen2.5"))
    assert "this looks like a checkpoint: run `fgr-edge export`" in line


# Pictures


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64)))


def test_bad_pictures_among_good_ones_cost_no_answer(tiny_models: TinyModels, picture: Path, tmp_path: Path) -> None:
    bad = {
        "missing.png": None,
        "empty.png": b"",
        "cut.png": picture.read_bytes()[:2000],
        "text.png": b"this is not a picture",
        "bomb.png": png_claiming(60_000, 60_000),
    }
    for name, data in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    Image.new("RGB", (1, 10_000)).save(tmp_path / "thin.png")
    names = [*bad, "thin.png"]
    asked: list[Path] = [picture]
    for name in names:
        asked += [tmp_path / name, picture]
    arguments = command("recognize", tiny_models.bundle("qwen2.5"), *asked, "--json")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    documents = json.loads(done.stdout)
    assert [document["image"] for document in documents] == [str(path) for path in asked]
    assert ["error" in document for document in documents] == [path != picture for path in asked]
    lines = done.stderr.splitlines()
    assert len(lines) == len(names), done.stderr
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("fgr-edge: ") and name in line, line


def test_an_empty_folder_is_found_before_anything_is_recognised(
    tiny_models: TinyModels, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    line = fails("recognize", tiny_models.bundle("qwen2.5"), picture, tmp_path / "empty")
    assert f"folder {tmp_path / 'empty'} holds no picture; expected files ending in" in line


# Labels


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "labels.txt: the list of labels is empty; expected one class name a line"),
        (b"Gala\nPink\n gala \n", "labels.txt: labels 'Gala' (line 1) and 'gala' (line 3) are the same name"),
        (b"Gala\nPi\x07nk\n", "holds the character U+0007, which no name has; remove it"),
        (b"K\xe4se\n", "labels.txt cannot be read as UTF-8 text"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    tiny_models: TinyModels, picture: Path, tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    assert words in fails("recognize", tiny_models.bundle("qwen2.5"), picture, "--labels", tmp_path / "labels.txt")


def test_labels_of_another_bundle_are_refused(bundle: Path, picture: Path) -> None:
    from fgr_edge.runtime.manifest import sealed

    foreign = {"version": 2, "labels": ["Gala"], "tokenizer_sha256": "0" * 64, "compiled": {}}
    data = json.dumps(foreign).encode()
    (bundle / "labels.json").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["labels.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(sealed(manifest)))
    line = fails("recognize", bundle, picture)
    assert "labels.json: these are the labels of another bundle" in line and "export the bundle again" in line


# Broken weights


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose logits are NaN."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
    from tests.tiny import image_processor, qwen2_5_vl, save

    folder = tmp_path_factory.mktemp("broken")
    model = qwen2_5_vl()
    model.model.language_model.norm.weight.data.fill_(float("nan"))
    save(model, folder / "checkpoint")
    image_processor(model).save_pretrained(folder / "checkpoint")
    return export_checkpoint(
        ExportConfig(folder / "checkpoint", folder / "bundle", precision="fp32", proof=False, quiet=True)
    )


@pytest.mark.parametrize("mode", ["direct", "reason"])
@pytest.mark.parametrize("named", [True, False], ids=["labels", "free"])
def test_logits_that_are_no_numbers_are_an_error(
    broken: Path, picture: Path, tmp_path: Path, mode: str, named: bool
) -> None:
    (tmp_path / "labels.txt").write_text("Gala\nFuji\n")
    labels = ("--labels", tmp_path / "labels.txt") if named else ()
    line = fails("recognize", broken, picture, "--json", "--mode", mode, *labels)
    assert "the decoder's logits are not finite numbers" in line and "export the bundle again" in line
