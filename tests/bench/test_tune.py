"""`tune` keeps the fastest settings, and the defaults where noise is all that speaks against them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fgr_edge.cli  # noqa: F401  (registers the commands)
from fgr_edge.bench import tune as tune_module
from fgr_edge.bench.tune import AnswerTimes, tune
from fgr_edge.cli.root import app
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.tuning import Machine, tuned_settings


@pytest.fixture
def bundle(nano_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(tune_module, "this_machine", lambda: Machine("cpu", "", 8, "1"))
    monkeypatch.setattr(library, "instructions", lambda: None)
    return Bundle.open(nano_bundle("int8"))


def timed(**factors: float) -> tuple[list[SessionSettings], tune_module.Measure]:
    """A machine on which a setting multiplies the time."""
    asked: list[SessionSettings] = []

    def measure(settings: SessionSettings) -> AnswerTimes:
        asked.append(settings)
        ms = 100.0
        ms *= factors.get(f"threads_{settings.threads}", 1.0)
        ms *= factors.get("never", 1.0) if settings.spinning == "never" else 1.0
        ms *= factors.get("huge", 1.0) if settings.huge_pages else 1.0
        ms *= factors.get("no_arena", 1.0) if not settings.arena else 1.0
        ms *= factors.get("theirs", 1.0) if settings.products == "onnxruntime" else 1.0
        return AnswerTimes(ms, ms, ms)

    return asked, measure


def test_faster_settings_are_kept(bundle: Bundle) -> None:
    _, measure = timed(threads_4=0.7, threads_2=0.9, never=0.8, huge=0.9, no_arena=0.5)
    assert tune(bundle, measure=measure).settings == SessionSettings(4, "never", False, True)


def test_noise_changes_no_threads_and_no_spinning(bundle: Bundle) -> None:
    _, measure = timed(threads_4=0.99, threads_2=0.985, never=0.985, huge=0.99, no_arena=1.05)
    assert tune(bundle, measure=measure).settings == SessionSettings(8, "during calls", True)


def test_the_arena_is_given_up_where_that_costs_next_to_nothing(bundle: Bundle) -> None:
    _, measure = timed(no_arena=1.01)
    assert not tune(bundle, measure=measure).settings.arena


@pytest.mark.parametrize(("theirs", "kept"), [(1.2, "fgr-edge"), (0.99, "fgr-edge"), (0.9, "onnxruntime")])
def test_our_products_are_given_up_where_the_engine_s_are_faster(
    bundle: Bundle, theirs: float, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "instructions", lambda: "some")
    _, measure = timed(theirs=theirs)
    steps: list[tuple[int, int]] = []
    found = tune(bundle, rounds=1, measure=measure, progress=lambda done, total: steps.append((done, total)))
    assert found.settings.products == kept
    assert {row["products"] for row in found.measured} == {"fgr-edge", "onnxruntime"}
    assert steps[-1] == (11, 11)


def test_products_are_not_compared_where_there_is_nothing_to_compare(
    nano_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(nano_bundle("fp32"))  # without such weights, but with attention
    for instructions, products in (("some", {"fgr-edge", "onnxruntime"}), (None, {"fgr-edge"})):
        monkeypatch.setattr(library, "instructions", lambda found=instructions: found)
        asked, measure = timed()
        tune(bundle, rounds=1, measure=measure)
        assert {settings.products for settings in asked} == products


def test_alternatives_take_turns_and_rows_tell_what_was_measured(bundle: Bundle) -> None:
    asked, measure = timed(threads_2=0.5)
    steps: list[tuple[int, int]] = []
    found = tune(bundle, rounds=2, measure=measure, progress=lambda done, total: steps.append((done, total)))
    assert [settings.threads for settings in asked[:6]] == [8, 4, 2, 4, 2, 8]
    assert [row["threads"] for row in found.measured] == [8, 4, 2, 2, 2, 2, 2, 2, 2]
    assert found.measured[0]["answer_ms"] == 100 + 100 + 32 * 100
    assert steps[-1] == (18, 18)


def test_what_is_far_behind_is_measured_once(bundle: Bundle) -> None:
    asked, measure = timed(threads_4=1.5, threads_2=2.0)
    found = tune(bundle, rounds=3, measure=measure)
    assert [settings.threads for settings in asked[:4]] == [8, 4, 2, 8]  # and then the next comparison
    assert [row["rounds"] for row in found.measured[:3]] == [1, 1, 1]
    assert all(row["rounds"] == 3 for row in found.measured[3:])
    assert found.settings.threads == 8


def test_one_disturbed_round_decides_nothing(bundle: Bundle) -> None:
    _, quiet = timed()
    calls = iter(range(1000))

    def measure(settings: SessionSettings) -> AnswerTimes:
        times = quiet(settings)
        return AnswerTimes(1000.0, 1000.0, 1000.0) if next(calls) in (0, 10, 13) else times

    assert tune(bundle, rounds=3, measure=measure).settings == SessionSettings(8, "during calls", False)


def test_a_large_model_gets_fewer_rounds(bundle: Bundle) -> None:
    asked, measure = timed(threads_4=0.8)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 7.0  # asked before each further round
        return now

    found = tune(bundle, rounds=50, measure=measure, clock=clock)
    assert found.settings.threads == 4
    assert all(1 <= row["rounds"] < 6 for row in found.measured)
    assert len(asked) < 50


def test_times_of_a_small_picture_stand_for_the_whole(nano_bundle: Callable[..., Path]) -> None:
    answer = tune_module._Answer(Bundle.open(nano_bundle("int8")))
    small, whole = answer._small, answer._whole
    assert small.vision_scale * len(small.patches.pixels) == pytest.approx(len(whole.patches.pixels))
    assert small.prefill_scale * len(small.embeds) == pytest.approx(len(whole.embeds))
    assert (whole.vision_scale, whole.prefill_scale) == (1.0, 1.0)


def test_a_bundle_is_measured(nano_bundle: Callable[..., Path]) -> None:
    found = tune(Bundle.open(nano_bundle("int8")), rounds=1)
    assert all(row["vision_ms"] > 0 and row["prefill_ms"] > 0 and row["token_ms"] > 0 for row in found.measured)
    assert found.sources.keys() == {"vision.onnx", "decoder.onnx"}


def test_the_command_keeps_what_it_measured(nano_bundle: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(nano_bundle("int8"), tmp_path / "bundle")
    done = CliRunner().invoke(app, ["tune", str(tmp_path / "bundle"), "--rounds", "1", "--json"])
    assert done.exit_code == 0
    settings = json.loads(done.stdout)["settings"]
    assert SessionSettings(**settings) == tuned_settings(Bundle.open(tmp_path / "bundle"))
