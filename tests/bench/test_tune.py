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
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.tuning import Machine, tuned_settings


@pytest.fixture
def bundle(nano_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(tune_module, "this_machine", lambda: Machine("cpu", "", 8, "1"))
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


def test_alternatives_take_turns_and_rows_tell_what_was_measured(bundle: Bundle) -> None:
    asked, measure = timed(threads_2=0.5)
    steps: list[tuple[int, int]] = []
    found = tune(bundle, rounds=2, measure=measure, progress=lambda done, total: steps.append((done, total)))
    assert [settings.threads for settings in asked[:6]] == [8, 4, 2, 4, 2, 8]
    assert [row["threads"] for row in found.measured] == [8, 4, 2, 2, 2, 2, 2, 2, 2]
    assert found.measured[0]["answer_ms"] == 100 + 100 + 32 * 100
    assert steps[-1] == (18, 18)


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
