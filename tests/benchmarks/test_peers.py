"""The comparison with other engines: what is counted and believed; a peer's failure does not end a run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.compare_peers import convert, enter, requests_of
from benchmarks.peers.bars import bars
from benchmarks.peers.chart import draw
from benchmarks.peers.contenders import CONTENDERS, Contender, Places, conversions, start_command
from benchmarks.peers.entrant import MOST_ERROR, Entrant, answer_check, ask, compare_logits, summarize
from benchmarks.peers.process import PeerError, PeerProcess
from benchmarks.peers.task import Task
from benchmarks.peers.text_checkpoint import stored_tensors, text_config, write_text_checkpoint
from benchmarks.peers.worker import Generated, Scored, Seen, token_log_probs
from benchmarks.random_checkpoint import SHAPES, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
WORKER = """
    import sys
    sys.path.insert(0, {root!r})
    from benchmarks.peers.worker import Generated, Scored, Seen, serve
    class Toy:
        def decode(self, ids, new_tokens):
            print("a library speaks on stdout")
            return Generated([ids[-1]] * new_tokens, 2.0, 5.0, "text")
        def labels(self, ids, labels):
            raise NotImplementedError("no labels here")
        def picture(self, path, text):
            import os; os._exit(3)
        def logits(self, ids):
            import time; time.sleep(60)
    serve(("numpy",), Toy)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Any:
    script = tmp_path / "toy.py"
    script.write_text(textwrap.dedent(WORKER.format(root=str(ROOT))))
    process = PeerProcess([sys.executable, str(script)], tmp_path / "toy.log", 60)
    yield process
    process.close()


def test_a_peer_answers_although_its_library_prints_to_stdout(toy: PeerProcess) -> None:
    answer = toy.ask({"do": "decode", "ids": [4, 7], "new_tokens": 3}, 30)
    assert answer["tokens"] == [7, 7, 7]
    assert toy.ready["versions"]["numpy"] == np.__version__


def test_what_a_peer_cannot_do_is_noted_once_and_the_rest_goes_on(toy: PeerProcess) -> None:
    entrant = Entrant(CONTENDERS[0], toy)
    assert ask(entrant, {"do": "labels", "ids": [1], "labels": [[1]]}) is None
    assert entrant.missing == {"labels": "no labels here"}
    assert ask(entrant, {"do": "decode", "ids": [1], "new_tokens": 2}) is not None


def test_a_peer_that_dies_is_an_error_with_its_log(toy: PeerProcess) -> None:
    with pytest.raises(PeerError, match="it ended; its last words"):
        toy.ask({"do": "picture", "path": "x", "text": ""}, 30)


def test_a_peer_that_hangs_is_ended_in_time(toy: PeerProcess) -> None:
    with pytest.raises(PeerError, match="no answer within 1 s"):
        toy.ask({"do": "logits", "ids": [1], "to": "x"}, 1)
    assert toy._process.poll() is not None


def test_an_absent_environment_is_a_reason_that_names_its_script(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path, tmp_path)
    entrant = enter(CONTENDERS[0], places, 1, tmp_path / "names.txt")
    assert entrant.process is None
    assert entrant.reason == "no environment; run benchmarks/peers/setup_transformers.sh"
    assert (PEERS / "setup_transformers.sh").exists()


def test_a_conversion_that_fails_leaves_nothing_that_passes_for_a_model(tmp_path: Path) -> None:
    output = tmp_path / "model"
    command = [sys.executable, "-c", f"import os; os.mkdir({str(output)!r}); raise SystemExit(3)"]
    with pytest.raises(subprocess.CalledProcessError):
        convert(command, output, tmp_path / "log")
    assert not output.exists()


def test_every_contender_has_a_worker_a_set_up_script_and_a_command(tmp_path: Path) -> None:
    places = Places(tmp_path / "checkpoint", tmp_path / "models", tmp_path)
    for contender in CONTENDERS:
        assert (PEERS / f"work_{contender.peer}.py").exists()
        assert (PEERS / f"setup_{contender.peer}.sh").exists()
        command = start_command(contender, places, 2, tmp_path / "names.txt")
        assert command[2] == f"benchmarks.peers.work_{contender.peer}"
        made = [path for path, _ in conversions(contender, places)]
        assert contender.peer in ("fgr_edge", "transformers") or places.model(contender) in made
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)


def test_every_quantized_peer_meets_this_runtime_at_its_own_block_size() -> None:
    ours = {(row.bits, row.block) for row in CONTENDERS if row.ours}
    assert {(row.bits, row.block) for row in CONTENDERS} <= ours


def test_the_text_checkpoint_has_the_decoders_bytes_under_qwen2s_config(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", SHAPES["qwen2.5-vl-tiny"])
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer_config.json").write_text("{}")
    output = write_text_checkpoint(source, tmp_path / "text")
    before = {row.name: row for row in stored_tensors(source)}
    after = {row.name: row for row in stored_tensors(output)}
    assert set(after) == {name for name in before if not name.startswith("visual.")}  # untied: the head stays
    for name in ("model.layers.1.mlp.down_proj.weight", "lm_head.weight"):
        pair = (before[name], after[name])
        old, new = (np.fromfile(row.path, np.uint16, row.bytes // 2, offset=row.offset) for row in pair)
        np.testing.assert_array_equal(old, new)
    config = json.loads((output / "config.json").read_text())
    assert config == text_config(source)
    assert config["architectures"] == ["Qwen2ForCausalLM"] and "rope_scaling" not in config


def test_a_labels_log_probability_is_the_sum_over_its_tokens() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    softmax = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    assert token_log_probs(logits, [4, 0, 9]) == pytest.approx(np.log(softmax[[0, 1, 2], [4, 0, 9]]).sum(), abs=1e-5)


def test_equal_logits_have_no_error_and_other_models_are_out_of_every_bound() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=4000)
    reference = {"logits": logits, "tokens": [1, 2, 3], "log_probs": [-1.0, -2.0]}
    scored = {"log_probs": [-1.0, -2.5]}
    same = compare_logits(logits + 7, [1, 2, 4], scored, reference)  # a constant changes no probability
    assert same == {"error": 0.0, "equal_tokens": 2, "label_log_prob_difference": 0.5}
    assert compare_logits(random.normal(size=4000), [1, 2, 3], None, reference)["error"] > max(MOST_ERROR.values())


def row(peer: str, bits: int, block: int | None, tpot: float, **changed: Any) -> dict[str, Any]:
    ms = {"p50": tpot}
    figures: dict[str, Any] = {
        "integers": "",
        "best_label_ms": {"p50": None},
        "best_label_with_prompt_ms": {"p50": None},
        "tpot_ms": ms,
        "picture_ms": ms,
        "labels_ms": ms,
        "labels_with_prompt_ms": ms,
        "peak_bytes": 100,
        "text_peak_bytes": 100,
    }
    return {"peer": peer, "bits": bits, "block": block, "reason": None, **figures, **changed}


def test_decoding_is_compared_at_equal_bits_and_block_size() -> None:
    rows = {
        "ours": row("fgr_edge", 4, 128, 10),
        "equal": row("a", 4, 128, 10.5),
        "finer": row("b", 4, 32, 9),
        "wider": row("c", 8, 128, 5),
    }
    found = {bar["measure"]: bar for bar in bars(rows)}
    decode = found["decode, int4, block 128"]
    assert (decode["peer"], decode["ratio"], decode["met"]) == ("equal", 1.05, False)
    assert found["all labels, any peer"]["peer"] == "wider"


def test_an_answer_is_compared_with_all_scores_of_a_peer_and_only_after_fitted_prompts() -> None:
    rows = {
        "ours": row("fgr_edge", 8, 128, 20, best_label_ms={"p50": 2}, best_label_with_prompt_ms={"p50": 9}),
        "peer": row("a", 8, 128, 30),
    }
    assert not [bar for bar in bars(rows) if "answer" in bar["measure"]]
    found = {bar["measure"]: bar["ratio"] for bar in bars(rows, fitted=True)}
    assert found == {"label answer": 15.0, "label answer with the prompt": 3.33}


def test_pictures_in_integers_have_a_bar_and_no_second_one_for_the_text() -> None:
    rows = {"int4": row("fgr_edge", 4, 128, 10), "peer": row("a", 4, 128, 10)}
    rows["int4, vision w8a8"] = row("fgr_edge", 4, 128, 10, integers="vision", picture_ms={"p50": 5})
    found = [(bar["measure"], bar["ours"]) for bar in bars(rows)]
    assert ("picture, any peer", "int4, vision w8a8") in found
    assert ("decode, int4, block 128", "int4, vision w8a8") not in found


def test_what_an_answer_left_out_is_told_by_the_scores_of_all_labels() -> None:
    log_probs = np.log([0.9, 0.07, 0.02, 0.01]).tolist()
    scored = {"log_probs": log_probs, "best_log_probs": [log_probs[0] + 0.01, None, log_probs[2], None]}
    found = answer_check([scored | {"best_rest": 0.1}, {"log_probs": log_probs, "best_log_probs": None}])
    assert found == {
        "first_share": [0.9],
        "equal_first": True,
        "difference": 0.01,
        "unseen_share": 0.07,
        "rest": 0.1,
        "seen": [2],
    }
    wrong = scored | {"best_log_probs": [None, None, log_probs[2], log_probs[3]], "best_rest": 0.97}
    checked = answer_check([wrong])
    assert checked is not None and not checked["equal_first"]
    assert answer_check([{"log_probs": log_probs, "best_log_probs": None}]) is None


def test_rounds_take_prompts_in_turns() -> None:
    shape = {"decode", "picture", "labels"}
    task = Task([1], {"do": "decode"}, {"do": "picture"}, [{"do": "labels", "ids": [i]} for i in range(2)])
    asked = [requests_of(task, shape, number)[-1]["ids"] for number in range(3)]
    assert asked == [[0], [1], [0]]
    assert [request["do"] for request in requests_of(task, {"picture"}, 0)] == ["picture"]


def test_who_is_out_of_the_run_sets_no_bar_and_who_lacks_a_measure_does_not_either() -> None:
    rows = {
        "ours": row("fgr_edge", 8, 128, 10),
        "wrong": row("a", 8, 128, 1, reason="not the same model"),
        "text": row("b", 8, 128, 15, picture_ms={"p50": None}, text_peak_bytes=90),
    }
    found = {bar["measure"]: bar for bar in bars(rows)}
    assert (found["decode, int8, block 128"]["peer"], found["decode, int8, block 128"]["met"]) == ("text", True)
    assert not found["memory, text, int8, block 128"]["met"]
    assert "memory, picture, int8, block 128" not in found
    assert "picture, any peer" not in found


def test_a_row_has_medians_per_token_and_labels_with_and_without_the_prompt() -> None:
    entrant = Entrant(Contender("x", "fgr_edge", 8, 128))
    entrant.done = {
        "decode": [{"ms": ms, "first_ms": 3.0} for ms in (30.0, 60.0, 90.0)],
        "labels": [{"ms": 40.0, "prompt_ms": 10.0, "best_ms": None, "best_log_probs": None}],
        "picture": [{"ms": 5.0, "prompt_tokens": 9}],
    }
    found = summarize(entrant, 4)
    assert found["tpot_ms"]["p50"] == 20 and found["decode_tokens_per_s"] == 50
    assert (found["labels_ms"]["p50"], found["labels_with_prompt_ms"]["p50"]) == (40, 50)
    assert found["best_label_ms"]["p50"] is None


def test_the_chart_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    rows = {
        "ours": row("fgr_edge", 8, 128, 10, decode_tokens_per_s=100.0),
        "text": row("b", 8, 128, 15, decode_tokens_per_s=66.0, picture_ms={"p50": None}),
        "gone": {"reason": "no environment"},
    }
    document = {"contenders": rows, "checkpoint": "x", "prompt_tokens": 3, "new_tokens": 4, "labels": 2}
    document |= {"threads": 2, "rounds": 1, "read_bandwidth_gbps": {"p50": 36.0}}
    draw(document, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_this_projects_worker_generates_scores_and_sees(nano_bundle: Callable[..., Path], tmp_path: Path) -> None:
    from benchmarks.peers.work_fgr_edge import FgrEdgeWorker
    from benchmarks.picture import write_picture

    names = ["Apple", "Banana", "Pear"]
    worker = FgrEdgeWorker(nano_bundle(), 1, names)
    ids = worker._recognizer.model.prompts.encode_text("a short prompt of some tokens")
    generated = worker.decode(ids, 5)
    assert isinstance(generated, Generated) and len(generated.tokens) == 5
    assert generated.tokens[0] == int(worker.logits(ids).argmax())
    closing = worker._recognizer.model.eos_ids[0]
    labels = [[*worker._recognizer.model.prompts.encode_text(name), closing] for name in names]
    scored = worker.labels(ids, labels)
    assert isinstance(scored, Scored)
    for label, found in zip(labels, scored.log_probs, strict=True):
        rows = [worker.logits([*ids, *label[:i]]).copy() for i in range(len(label))]
        assert found == pytest.approx(token_log_probs(rows, label), abs=1e-3)
    checked = answer_check([{"log_probs": scored.log_probs, "best_log_probs": scored.best_log_probs, "best_rest": 0}])
    assert checked is not None and checked["equal_first"] and checked["difference"] < 1e-3
    picture = write_picture(tmp_path / "p.jpg", (64, 64))
    seen = worker.picture(picture, "")
    assert isinstance(seen, Seen) and seen.token == int(worker.picture_logits(picture, "").argmax())
