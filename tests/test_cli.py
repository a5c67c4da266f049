"""The command line: results on stdout, all else on stderr, exit 0 done, 1 a known failure, 2 usage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from fgr_edge import __version__
from tests.command import Done

if TYPE_CHECKING:
    from tests.tiny import TinyModels

COMMAND = [sys.executable, "-c", "from fgr_edge.cli import main; main()"]
LABELS = ["Royal", "Royal Gala", "Pink Lady", "Käse"]


def process(*arguments: object, stdin: bytes = b"") -> Done:
    """Run the command in a process of its own."""
    run = subprocess.run([*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, timeout=240)
    return Done(run.returncode, run.stdout.decode(), run.stderr.decode())


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a.png, b.jpg, sub/c.webp and notes.txt."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "sub").mkdir()
    (folder / "notes.txt").write_text("no picture")
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.webp")):
        pixels = np.random.default_rng(i).integers(0, 256, (80 + 20 * i, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


# A process of its own


def test_a_checkpoint_is_exported_inspected_and_asked(
    tiny_models: TinyModels, labels: Path, photographs: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    exported = process(
        "-v", "export", tiny_models.checkpoint("qwen2.5"), "-o", bundle, "--target", "cpu", "--precision", "int8",
        "--labels", labels, "--image-size", "140x112", "--no-proof",
    )  # fmt: skip
    assert exported.code == 0, exported.err
    assert "decoder int8" in exported.out and "decoder.onnx.data" in exported.out
    assert f"bundle {bundle}" in exported.err, "-v logs stages, to stderr"
    assert "\x1b" not in exported.out + exported.err, "no colours where there is no terminal"

    inspected = process("inspect", bundle, "--json")
    assert inspected.code == 0
    assert (json.loads(inspected.out)["labels"], json.loads(inspected.out)["image"]["max_pixels"]) == (4, 140 * 112)

    picture = (photographs / "a.png").read_bytes()
    asked = process("recognize", bundle, "-", photographs / "b.jpg", "--json", stdin=picture)
    assert asked.code == 0 and asked.err == ""
    first, second = json.loads(asked.out)
    assert (first["image"], second["image"]) == ("stdin", str(photographs / "b.jpg"))
    assert first["label"] in LABELS and 0 < first["probability"] <= 1

    failed = process("recognize", bundle, photographs / "missing.png")
    assert failed.code == 1 and failed.out.count("\n") == 1, "a header and no answer"
    assert failed.err.startswith("fgr-edge: ") and failed.err.count("\n") == 1 and "missing.png" in failed.err

    wrong = process("recognize")
    assert wrong.code == 2 and wrong.out == "" and "Traceback" not in wrong.err


# The same entry point, in this process


def test_export_prints_what_inspect_prints(
    tiny_models: TinyModels, fgr_edge: Callable[..., Done], tmp_path: Path
) -> None:
    options = ("-o", tmp_path / "b", "--precision", "fp32", "--no-proof")
    exported = fgr_edge("export", tiny_models.checkpoint("qwen3"), *options)
    assert exported.code == 0 and "not compared with the original" in exported.out
    assert fgr_edge("inspect", tmp_path / "b") == Done(0, exported.out, "")


def test_int8_for_the_cpu_is_what_export_makes_unasked(
    tiny_models: TinyModels, fgr_edge: Callable[..., Done], tmp_path: Path
) -> None:
    assert fgr_edge("export", tiny_models.checkpoint("qwen2.5"), "-o", tmp_path / "b", "--no-proof").code == 0
    found = json.loads(fgr_edge("inspect", tmp_path / "b", "--json").out)
    assert (found["target"], found["precision"]["decoder"]) == ("cpu", "int8")


def test_direct_answers_are_one_line_each(
    tiny_models: TinyModels, labels: Path, photographs: Path, fgr_edge: Callable[..., Done]
) -> None:
    pictures = [photographs / "a.png", photographs / "b.jpg"]
    done = fgr_edge("recognize", tiny_models.bundle("qwen2.5"), *pictures, "--labels", labels, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    header, *lines = done.out.splitlines()
    assert header.split() == ["picture", "answer", "p", "time"]
    assert len(lines) == 2
    for line, picture in zip(lines, pictures, strict=True):
        assert str(picture).endswith(line.split("  ")[0].lstrip("…")) and line.endswith(" ms")
        assert any(f"  {label}  " in line for label in LABELS)


def test_a_folder_is_recognised_picture_by_picture(
    tiny_models: TinyModels, labels: Path, photographs: Path, fgr_edge: Callable[..., Done]
) -> None:
    done = fgr_edge("recognize", tiny_models.bundle("qwen2.5"), photographs, "--labels", labels, "--json")
    names = [document["image"] for document in json.loads(done.out)]
    assert names == [str(photographs / name) for name in ("a.png", "b.jpg", "sub/c.webp")]


def test_reason_mode_shows_the_thought(
    tiny_models: TinyModels, labels: Path, photographs: Path, fgr_edge: Callable[..., Done]
) -> None:
    arguments = ("recognize", tiny_models.bundle("qwen3"), photographs / "a.png", "--labels", labels)
    options = ("--mode", "reason", "--think-budget", 8)
    (document,) = json.loads(fgr_edge(*arguments, *options, "--json").out)
    assert document["mode"] == "reason" and "<answer>" in document["text"]
    assert document["label"] in LABELS
    assert document["timings"]["generated_tokens"] >= 8
    shown = fgr_edge(*arguments, *options)
    assert shown.code == 0 and document["label"] in shown.out
    for line in document["reasoning"].splitlines():
        assert line in shown.out


def test_as_many_classes_are_shown_as_asked_for(
    tiny_models: TinyModels, labels: Path, photographs: Path, fgr_edge: Callable[..., Done]
) -> None:
    arguments = ("recognize", tiny_models.bundle("qwen2.5"), photographs / "a.png", "--labels", labels, "--top-k", 3)
    (document,) = json.loads(fgr_edge(*arguments, "--json").out)
    assert len(document["top_k"]) == 3 and document["top_k"][0]["label"] == document["label"]
    assert (document["level"], document["calibrated"], document["abstained"]) == (0, False, False)
    assert 0 <= document["rest"] <= 0.01
    _, first, *others = fgr_edge(*arguments).out.splitlines()
    assert len(others) == 2
    for line, row in zip((first, *others), document["top_k"], strict=True):
        assert f"  {row['label']}  " in line and f"{row['probability']:.3f}" in line


def test_labels_with_synonyms_are_answered_by_their_names(
    tiny_models: TinyModels, photographs: Path, tmp_path: Path, fgr_edge: Callable[..., Done]
) -> None:
    rows = "name,parent,synonyms\n" + "x" * 60 + ",Fruit,a\n" + "y" * 60 + ",Fruit,\n"
    (tmp_path / "labels.csv").write_text(rows, encoding="utf-8")
    arguments = ("recognize", tiny_models.bundle("qwen2.5"), photographs / "a.png", "--json")
    (document,) = json.loads(fgr_edge(*arguments, "--labels", tmp_path / "labels.csv").out)
    assert document["label"] == "x" * 60 and document["probability"] > 0.9


def test_free_answers_need_no_labels(tiny_models: TinyModels, photographs: Path, fgr_edge: Callable[..., Done]) -> None:
    bundle, picture = tiny_models.bundle("qwen2.5"), photographs / "a.png"
    (own,) = json.loads(fgr_edge("recognize", bundle, picture, "--json").out)
    (other,) = json.loads(fgr_edge("recognize", bundle, picture, "--json", "--question", "How many?").out)
    assert own["timings"]["prompt_tokens"] > other["timings"]["prompt_tokens"]


def test_json_keeps_letters_readable(
    tiny_models: TinyModels, photographs: Path, tmp_path: Path, fgr_edge: Callable[..., Done]
) -> None:
    (tmp_path / "labels.txt").write_text("Käse 🧀", encoding="utf-8")
    done = fgr_edge(
        "recognize", tiny_models.bundle("qwen2.5"), photographs / "a.png", "--labels", tmp_path / "labels.txt", "--json"
    )
    assert '"Käse 🧀"' in done.out


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ((), ("export", "inspect", "recognize", "train")),
        (("export",), ("--output", "--target", "--precision", "--labels", "--image-size", "--force")),
        (("inspect",), ("--json",)),
        (("recognize",), ("--labels", "--mode", "--question", "--think-budget", "--top-k", "--json")),
        (("train",), ("sft",)),
    ],
    ids=lambda value: " ".join(value) or "fgr-edge",
)
def test_every_verb_has_help(fgr_edge: Callable[..., Done], verb: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = fgr_edge(*verb, "--help")
    assert (done.code, done.err) == (0, "")
    for word in ("Usage", *words):
        assert word in done.out


def test_the_version_is_the_packages(fgr_edge: Callable[..., Done]) -> None:
    assert fgr_edge("--version") == Done(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fly",), ("fly",)),
        (("export", "model"), ("--output",)),
        (("export", "model", "-o", "b", "--image-size", "big"), ("--image-size", "'big' is no size", "WxH", "640x480")),
        (("export", "model", "-o", "b", "--image-size", "0x5"), ("--image-size", "WxH")),
        (("export", "model", "-o", "b", "--image-size", "640x480x3"), ("--image-size", "WxH")),
        (("export", "model", "-o", "b", "--image-size", "-1x5"), ("--image-size", "WxH")),
        (("recognize", "bundle", "a.png", "--mode", "guess"), ("--mode", "direct", "reason")),
        (("recognize", "bundle", "a.png", "--top-k", "0"), ("--top-k",)),
        (("recognize", "bundle", "a.png", "--threads", "0"), ("--threads",)),
        (("recognize", "bundle"), ("IMAGES",)),
        (("inspect",), ("BUNDLE",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_usage_is_exit_2_and_says_what_was_expected(
    fgr_edge: Callable[..., Done], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = fgr_edge(*arguments)
    assert (done.code, done.out) == (2, "")
    shown = " ".join(done.err.replace("│", " ").split())  # rich breaks lines in its box
    for word in words:
        assert word.lower() in shown.lower(), shown  # typer's versions spell arguments differently


def test_no_arguments_show_the_help(fgr_edge: Callable[..., Done]) -> None:
    done = fgr_edge()
    assert "Usage" in done.out + done.err and done.code in (0, 2)
