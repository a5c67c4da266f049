"""Who takes part: one row a peer and precision, how its model is made from the checkpoint, how its process is started.

In: a checkpoint, a folder for models, a folder of environments (`setup_PEER.sh` makes each). Out: commands. Blocks are
weights that share a scale; only rows with the same bits and block are compared at "the same block size". llama.cpp has
blocks of 32 alone (Q8_0, Q4_0); OpenVINO's 8 bits have one scale a channel alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GGUF = {8: "Q8_0", 4: "Q4_0"}


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of the comparison.

    Attributes:
        peer: module `work_PEER` and environment `PEER`.
        bits: of a weight of the decoder and its head.
        block: weights that share a scale; None where a channel does, or nothing is scaled.
        pictures: whether the whole model runs, and not the decoder alone.
        integers: for fgr-edge, what multiplies 8-bit weights with inputs rounded to 8 bits by one scale a call: the
            vision tower, or it and the decoder's layers.
    """

    name: str
    peer: str
    bits: int
    block: int | None
    pictures: bool = True
    flags: tuple[str, ...] = ()
    integers: Literal["", "vision", "all"] = ""

    @property
    def ours(self) -> bool:
        """Whether it is this project's runtime."""
        return self.peer == "fgr_edge"

    @property
    def weights(self) -> str:
        """Their layout in a word: fp32, int8-128, int8-channel, int4-32, w8a8, int4-128-w8a8."""
        if self.integers == "all":
            return "w8a8"
        layout = "fp32" if self.bits == 32 else f"int{self.bits}-{self.block or 'channel'}"
        return f"{layout}-w8a8" if self.integers == "vision" else layout


CONTENDERS = (
    Contender("transformers fp32", "transformers", 32, None),
    Contender("transformers fp32, compiled", "transformers", 32, None, flags=("--compiled",)),
    Contender("fgr-edge fp32", "fgr_edge", 32, None),
    Contender("fgr-edge int8", "fgr_edge", 8, 128),
    Contender("ONNX Runtime GenAI int8", "onnxruntime_genai", 8, 128, pictures=False),
    Contender("fgr-edge int8, channel", "fgr_edge", 8, None),
    Contender("fgr-edge w8a8, channel", "fgr_edge", 8, None, integers="all"),
    Contender("OpenVINO GenAI int8, channel", "openvino_genai", 8, None),
    Contender("fgr-edge int8, 32", "fgr_edge", 8, 32),
    Contender("llama.cpp Q8_0, 32", "llama_cpp", 8, 32),
    Contender("fgr-edge int4", "fgr_edge", 4, 128),
    Contender("fgr-edge int4, vision w8a8", "fgr_edge", 4, 128, integers="vision"),
    Contender("ONNX Runtime GenAI int4", "onnxruntime_genai", 4, 128, pictures=False),
    Contender("OpenVINO GenAI int4", "openvino_genai", 4, 128),
    Contender("fgr-edge int4, 32", "fgr_edge", 4, 32),
    Contender("ONNX Runtime GenAI int4, 32", "onnxruntime_genai", 4, 32, pictures=False),
    Contender("llama.cpp Q4_0, 32", "llama_cpp", 4, 32),
)


@dataclass(frozen=True, slots=True)
class Places:
    """checkpoint: Hugging Face layout; models: one folder a contender; environments: one folder a peer."""

    checkpoint: Path
    models: Path
    environments: Path

    def python(self, peer: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.environments / peer / "venv" / "bin" / "python"

    @property
    def text(self) -> Path:
        """The decoder alone, what text-only tools convert; nobody opens it."""
        return self.models / "text"

    def model(self, contender: Contender) -> Path:
        """What the contender opens."""
        if contender.peer == "transformers":
            return self.checkpoint
        if contender.peer == "llama_cpp":
            return self.models / "llama_cpp" / f"decoder-{GGUF[contender.bits]}.gguf"
        return self.models / f"{contender.peer}-{contender.weights}"

    def whole(self, contender: Contender) -> Path:
        """OpenVINO's folder of the whole model, llama.cpp's vision file."""
        if contender.peer == "llama_cpp":
            return self.models / "llama_cpp" / "vision-Q8_0.gguf"
        return self.models / f"{contender.peer}-vlm-{contender.weights}"

    def every(self, contender: Contender) -> Path:
        """ONNX Runtime GenAI's folder with logits of every position."""
        return self.models / f"{contender.peer}-{contender.weights}-every"


def start_command(contender: Contender, places: Places, threads: int, names: Path, *, text: bool = False) -> list[str]:
    """What starts the contender's process; `names` is a file of labels. With `text`, it runs the decoder alone."""
    model = places.model(contender)
    command = [str(places.python(contender.peer)), "-m", f"benchmarks.peers.work_{contender.peer}", str(model)]
    command += ["--threads", str(threads), *contender.flags]
    if contender.ours:
        command += ["--labels", str(names), *(["--text"] if text else [])]
    if contender.peer == "onnxruntime_genai" and places.every(contender).exists():
        command += ["--every", str(places.every(contender))]
    option = {"openvino_genai": "--pictures", "llama_cpp": "--vision"}.get(contender.peer)
    if option is not None and not text and places.whole(contender).exists():
        command += [option, str(places.whole(contender))]
    return command


def conversions(contender: Contender, places: Places) -> list[tuple[Path, list[str]]]:
    """What to run, in which order, where the path before it does not exist yet; this project's bundles are written by
    `bundles.py`."""
    python = str(places.python(contender.peer))
    if contender.peer == "llama_cpp":
        kind, folder = GGUF[contender.bits], str(places.models / "llama_cpp")
        module = "benchmarks.peers.gguf_checkpoint"
        command = [python, "-m", module, str(places.checkpoint), folder, "--type", kind]
        return [(places.model(contender), command), (places.whole(contender), command)]
    if contender.peer == "onnxruntime_genai":
        pruned = (places.model(contender), _onnxruntime(contender, places, places.model(contender), "true"))
        # Logits of every position are wanted for labels alone, and of one precision each.
        every = (places.every(contender), _onnxruntime(contender, places, places.every(contender), "false"))
        return [_text(places), pruned, every] if contender.block == 128 else [_text(places), pruned]
    if contender.peer == "openvino_genai":
        text, whole = places.model(contender), places.whole(contender)
        return [
            _text(places),
            (text, _openvino(contender, places, places.text, "text-generation-with-past", text)),
            (whole, _openvino(contender, places, places.checkpoint, "image-text-to-text", whole)),
        ]
    return []


def _text(places: Places) -> tuple[Path, list[str]]:
    module = "benchmarks.peers.text_checkpoint"
    return places.text, [str(places.python("fgr_edge")), "-m", module, str(places.checkpoint), str(places.text)]


def _onnxruntime(contender: Contender, places: Places, output: Path, prune: str) -> list[str]:
    builder = [str(places.python(contender.peer)), "-m", "onnxruntime_genai.models.builder"]
    builder += ["-i", str(places.text), "-o", str(output), "-p", f"int{contender.bits}", "-e", "cpu"]
    builder += ["-c", str(places.models / "cache"), "--extra_options", f"block_size={contender.block}"]
    return [*builder, f"prune_lm_head={prune}", "shared_embeddings=true", "algo_config=rtn"]


def _openvino(contender: Contender, places: Places, source: Path, task: str, output: Path) -> list[str]:
    command = [str(places.python(contender.peer)), "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    command += ["--model", str(source), "--task", task, "--weight-format", f"int{contender.bits}"]
    if contender.bits == 4:
        command += ["--group-size", str(contender.block), "--ratio", "1.0", "--all-layers"]
    return [*command, str(output)]
