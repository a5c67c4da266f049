"""Labelling a store with nano on this machine: every photograph once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fgr_edge import Recognizer
from fgr_edge.bulk import worker
from fgr_edge.bulk.config import LabelConfig
from fgr_edge.bulk.labelling import label_photographs
from fgr_edge.bulk.output import output_of
from fgr_edge.bulk.plan import plan_of
from fgr_edge.bulk.shard import ShardTask
from fgr_edge.bulk.store import read_store
from fgr_edge.errors import BundleError, ConfigError, EngineError, FgrEdgeError, OutputExistsError, StorageError
from tests.bulk.conftest import BROKEN, quiet
from tests.command import Done

COMMAND = [sys.executable, "-c", "from fgr_edge.cli import main; main()"]
Config = Callable[..., LabelConfig]
Lines = Callable[[Path], list[str]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records(folder: Path) -> list[tuple[object, ...]]:
    """What every record of an output says, in order, to four decimals: an engine's rounding depends on its history."""
    lines = [line for path in sorted((folder / "shards").iterdir()) for line in path.read_text().splitlines()]
    return [
        (one["image"], one.get("sha256"), one.get("label"), round(one.get("probability") or 0, 4), one.get("error"))
        for one in map(json.loads, lines)
    ]


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.002)


def test_every_photograph_has_one_record_with_the_recognizer_s_own_answer(config: Config, lines: Lines) -> None:
    given = config(top_k=2)
    done = label_photographs(given, quiet)
    records = [json.loads(line) for line in lines(given.output)]
    store = read_store(given.source)
    assert [record["image"] for record in records] == [photograph.name for photograph in store.photographs]
    assert (done["records"], done["errors"], done["photographs_labelled"]) == (12, 1, 12)
    assert [shard["records"] for shard in done["shards"]] == [5, 5, 2]
    recognizer = Recognizer(given.bundle, threads=1)
    for record in records[:3]:
        found = recognizer(given.source / record["image"], top_k=2).to_json()
        del found["timings"]
        assert {key: record[key] for key in found} == found


def test_a_photograph_that_cannot_be_read_is_a_record_with_an_error(
    config: Config, lines: Lines, tmp_path: Path, store: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    source = tmp_path / "list.txt"
    source.write_text(f"{store / BROKEN}\n{tmp_path / 'gone.jpg'}\n{tmp_path / 'pipe.jpg'}\n{store / 'a/0001.png'}\n")
    given = config(source=source)
    assert label_photographs(given, quiet)["errors"] == 3
    records = [json.loads(line) for line in lines(given.output)]
    assert ["error" in record for record in records] == [True, True, True, False]
    assert records[3]["label"]


def test_two_processes_write_the_same_records_as_one(config: Config, tmp_path: Path) -> None:
    one, two = config(), config(output=tmp_path / "two", workers=2)
    label_photographs(one, quiet)
    label_photographs(two, quiet)
    assert records(one.output) == records(two.output)
    assert files(one.output).keys() == files(two.output).keys()


def test_a_second_run_labels_nothing_and_a_lost_shard_only_that(config: Config) -> None:
    given = config()
    label_photographs(given, quiet)
    before = files(given.output)
    again = label_photographs(given, quiet)
    assert (again["photographs_labelled"], again["shards_kept"]) == (0, 3)
    (given.output / "shards" / "000001.jsonl").write_bytes(before["shards/000001.jsonl"][:-9])
    third = label_photographs(given, quiet)
    assert (third["photographs_labelled"], third["shards_kept"]) == (5, 2)
    for kept in ("shards/000000.jsonl", "shards/000002.jsonl", "plan.json"):
        assert files(given.output)[kept] == before[kept]
    assert len(records(given.output)) == 12


def test_a_run_that_is_killed_is_gone_on_with_and_nothing_is_lost_or_twice(
    config: Config, tmp_path: Path, store_of: Callable[[int], Path]
) -> None:
    whole = config(source=store_of(60), shard_size=20, output=tmp_path / "whole")
    label_photographs(whole, quiet)
    killed = replace(whole, output=tmp_path / "killed")
    shards = killed.output / "shards"
    arguments = ["label", killed.bundle, killed.source, killed.output, "--shard-size", 20, "--threads", 1]
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: any(path.stat().st_size for path in shards.glob(".000001.*")))
    process.kill()
    process.communicate()
    left = sorted(path.name for path in shards.iterdir())
    assert left[-1] == "000000.jsonl" and len(left) == 2  # one finished, one in the middle
    again = label_photographs(killed, quiet)
    assert again["shards_kept"] == 1
    assert records(killed.output) == records(whole.output)
    assert files(killed.output).keys() == files(whole.output).keys()


def test_a_worker_that_is_killed_is_replaced(config: Config, tmp_path: Path, store_of: Callable[[int], Path]) -> None:
    given = config(source=store_of(40), shard_size=20, workers=2)
    victims: list[int] = []

    @contextmanager
    def bar(title: str, total: int):  # type: ignore[no-untyped-def]  # a bar, while a thread kills
        import threading

        thread = threading.Thread(target=kill_one, args=(given.output / "shards", victims))
        thread.start()
        yield lambda _: None
        thread.join()

    done = label_photographs(given, bar)
    assert victims and done["records"] == 41
    reference = replace(given, output=tmp_path / "reference", workers=1)
    label_photographs(reference, quiet)
    assert records(given.output) == records(reference.output)


def kill_one(shards: Path, victims: list[int]) -> None:
    """SIGKILL the process that has begun to write a shard, and not finished it."""

    def killed() -> bool:
        for partial in shards.glob(".*.partial"):
            with suppress(FileNotFoundError):  # finished meanwhile
                if partial.stat().st_size:
                    pid = int(partial.name.split(".")[3].split("-")[0])
                    os.kill(pid, signal.SIGKILL)
                    victims.append(pid)
                    return True
        return False

    wait_for(killed)


def test_a_run_that_is_interrupted_leaves_no_unfinished_file(config: Config) -> None:
    given = config()
    shards = given.output / "shards"

    def step(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        (shards / ".000001.jsonl.1-dead.partial").write_bytes(b"{}\n")  # as of a worker that was killed
        yield step

    with pytest.raises(KeyboardInterrupt):
        label_photographs(given, bar)
    assert [path.name for path in shards.iterdir()] == ["000000.jsonl"]


def test_a_worker_that_finds_another_bundle_refuses_it(
    config: Config, nano_bundle: Callable[..., Path], nano_labels: Path, tmp_path: Path
) -> None:
    given = config(bundle=tmp_path / "bundle")
    shutil.copytree(nano_bundle("int8", nano_labels), given.bundle)

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        shutil.rmtree(given.bundle)
        shutil.copytree(nano_bundle("fp32", nano_labels), given.bundle)
        yield lambda _: None

    with pytest.raises(BundleError, match=r"expected [0-9a-f]{12}, which the driver sees"):
        label_photographs(given, bar)
    assert not list((given.output / "shards").iterdir())


def test_a_photograph_that_kills_every_worker_is_named(
    config: Config, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    given = config(shard_size=12)
    shards = given.output / "shards"
    store_now = read_store(store)
    plan = plan_of(given, store_now, "0", None)
    with output_of(given.output, plan, store_now.photographs, force=False):
        for number in range(worker.DEATHS_AT_MOST):
            (shards / f".000000.jsonl.{number}-dead.partial").write_bytes(b"{}\n" * 4)
        task = ShardTask(0, str(shards / "000000.jsonl"), tuple(one.name for one in store_now.photographs))
        with pytest.raises(EngineError, match=r"3 workers died of shard 0.*'a/0009.png', its photograph 5 of 12"):
            worker.Labeller(None)(task)  # type: ignore[arg-type]  # it does not come to read them


def test_a_script_without_a_guard_is_told_so(config: Config, tmp_path: Path) -> None:
    given = config(workers=2)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
from pathlib import Path
from fgr_edge.bulk.config import LabelConfig
from fgr_edge.bulk.labelling import label_photographs
from fgr_edge.export.progress import progress_bar
paths = [Path(path) for path in {[str(given.bundle), str(given.source), str(given.output)]}]
label_photographs(LabelConfig(*paths, workers=2), progress_bar)
"""
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 1
    assert "4 workers died before they began shard 0" in done.stderr.splitlines()[-1]


def test_another_bundle_option_or_source_is_not_mixed_in(
    config: Config, nano_bundle: Callable[..., Path], nano_labels: Path, store: Path, tmp_path: Path
) -> None:
    given = config()
    label_photographs(given, quiet)
    before = files(given.output)
    other_store = tmp_path / "store"
    shutil.copytree(store, other_store)
    assert label_photographs(replace(given, source=other_store), quiet)["photographs_labelled"] == 0
    (other_store / "a" / "0001.png").unlink()
    names = tmp_path / "names.txt"
    names.write_text("Royal Gala\nPink Lady\n")
    for changes, message in (
        ({"bundle": nano_bundle("fp32", nano_labels)}, "bundle is '[0-9a-f]+…' there, '[0-9a-f]+…' now"),
        ({"labels": names}, "labels is None there"),
        ({"top_k": 3}, "top_k is 1 there, 3 now"),
        ({"mode": "reason"}, "mode is 'direct' there, 'reason' now"),
        ({"shard_size": 4}, "shard_size is 5 there, 4 now"),
        ({"source": other_store}, r"the source had 12 photographs \(\d+ bytes\), and has 11"),
    ):
        with pytest.raises(OutputExistsError, match=message):
            label_photographs(replace(given, **changes), quiet)
        assert files(given.output) == before
    forced = label_photographs(replace(given, shard_size=4, force=True), quiet)
    assert len(forced["shards"]) == 3 and forced["photographs_labelled"] == 12


def test_what_is_not_ours_is_left_alone(config: Config) -> None:
    given = config(force=True)
    given.output.mkdir()
    (given.output / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"holds thesis.tex, .* left alone"):
        label_photographs(given, quiet)
    assert files(given.output) == {"thesis.tex": b"years of work"}
    with pytest.raises(OutputExistsError, match="is a file"):
        label_photographs(replace(given, output=given.output / "thesis.tex"), quiet)


def test_a_second_process_is_refused_while_one_is_at_work(config: Config) -> None:
    given = config()
    store = read_store(given.source)
    plan = plan_of(given, store, "0", None)
    with (
        output_of(given.output, plan, store.photographs, force=False),
        pytest.raises(StorageError, match="another process is labelling"),
        output_of(given.output, plan, store.photographs, force=False),
    ):
        pass
    with output_of(given.output, plan, store.photographs, force=False):
        pass


@pytest.mark.parametrize(
    "changes",
    [{"engine": "spark"}, {"workers": 0}, {"shard_size": 0}, {"top_k": 0}, {"mode": "x"}, {"ray_address": "auto"}],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        LabelConfig(tmp_path, tmp_path, tmp_path, **changes)  # type: ignore[arg-type]


def test_the_command_labels_and_says_what_it_did(
    config: Config, fgr_edge: Callable[..., Done], store: Path, tmp_path: Path
) -> None:
    given = config()
    done = fgr_edge("label", given.bundle, store, tmp_path / "out", "--json", "--shard-size", 6)
    assert done.code == 0
    assert json.loads(done.out)["records"] == 12
    again = fgr_edge("label", given.bundle, store, tmp_path / "out", "--shard-size", 6)
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("12 records in 2 shards, 1 of them errors; 0 labelled now")
    refused = fgr_edge("label", given.bundle, store, tmp_path / "out", "--shard-size", 7)
    assert (refused.code, refused.out) == (1, "")
    assert "shard_size is 6 there, 7 now" in refused.err


def test_without_ray_the_extra_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FgrEdgeError, match=r"fgr-edge\[ray\]"):
        label_photographs(config(engine="ray"), quiet)
