"""Relative semantic similarity, on a text encoder that the test makes: one vector a word, added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.errors import ConfigError
from fgr_edge.evaluate.similarity import OnnxTextEncoder, relative_similarity

WORDS = {"[UNK]": (0, 0, 1), "object": (1, 0, 0), "royal": (1, 1, 0), "gala": (1, 3, 0), "kiwi": (1, -1, 0)}


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a tokenizer of words and a graph that gathers their vectors and adds them up."""
    onnx = pytest.importorskip("onnx")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    def make(name: str = "input_ids", axis: int = 1) -> Path:
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        table = onnx.numpy_helper.from_array(np.array(list(WORDS.values()), np.float32), "table")
        axes = onnx.numpy_helper.from_array(np.array([axis], np.int64), "axes")
        nodes = [
            onnx.helper.make_node("Gather", ["table", name], ["words"]),
            onnx.helper.make_node("ReduceSum", ["words", "axes"], ["embedding"], keepdims=0 if axis == 1 else 1),
        ]
        given = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1, "S"])
        out = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(nodes, "encoder", [given], [out], [table, axes])
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "model.onnx")
        return tmp_path

    return make


def test_vectors_are_the_encoders_with_unit_length(encoder: Callable[..., Path]) -> None:
    encode = OnnxTextEncoder(encoder())
    assert encode("Royal gala") == pytest.approx(np.array([2, 4, 0]) / np.sqrt(20), abs=1e-6)


def test_the_name_itself_scores_1_the_coarse_word_0_and_what_is_farther_0(encoder: Callable[..., Path]) -> None:
    encode = OnnxTextEncoder(encoder())
    scores = [relative_similarity(encode, said, "royal gala", "object") for said in ("Royal Gala", "object", "kiwi")]
    assert scores == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_the_score_is_the_papers_formula(encoder: Callable[..., Path]) -> None:
    encode = OnnxTextEncoder(encoder())
    near = (2 + 4) / np.sqrt(2 * 20)
    far = 2 / np.sqrt(20)
    assert relative_similarity(encode, "royal", "royal gala", "object") == pytest.approx((near - far) / (1 - far))
    assert relative_similarity(encode, "object", "object", "object") in (0.0, 1.0), "no division by zero"


def test_what_is_no_text_encoder_is_a_config_error(encoder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model\.onnx"):
        OnnxTextEncoder(tmp_path)
    with pytest.raises(ConfigError, match="has the inputs pixels; expected input_ids"):
        OnnxTextEncoder(encoder(name="pixels"))
    with pytest.raises(ConfigError, match=r"puts out embedding \[1, 1, 3\]"):
        OnnxTextEncoder(encoder(axis=-2))("royal gala")
    (encoder() / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        OnnxTextEncoder(tmp_path)
