"""Labelling on a Ray cluster of two worker processes: the same records, nothing lost, nothing twice."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.bulk.config import LabelConfig
from fgr_edge.bulk.labelling import label_photographs
from fgr_edge.bulk.ray_engine import _ShardRows, shares
from fgr_edge.bulk.shard import ShardTask
from fgr_edge.errors import ConfigError, DataError, EngineError
from tests.bulk.conftest import quiet
from tests.bulk.test_labelling import files, kill_one, records

Config = Callable[..., LabelConfig]


def test_workers_get_the_cores_of_machines_that_have_them() -> None:
    two = [{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}]
    assert shares(two, None, None, gpu=False) == (2, 4)  # one on each machine
    assert shares(two, 3, None, gpu=False) == (3, 4)
    assert shares(two, 5, None, gpu=False) == (5, 2)
    assert shares(two, None, 2, gpu=False) == (2, 2)
    assert shares([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], None, None, gpu=True) == (2, 1)


def test_workers_that_do_not_fit_are_refused_before_ray_waits_for_ever() -> None:
    with pytest.raises(ConfigError, match="5 workers with 1 threads"):
        shares([{"CPU": 4.0}], 5, None, gpu=False)
    with pytest.raises(ConfigError, match="1 workers with 8 threads"):
        shares([{"CPU": 4.0}], None, 8, gpu=False)
    with pytest.raises(ConfigError, match="has no GPU"):
        shares([{"CPU": 4.0}], None, None, gpu=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local cluster with room for two workers."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()
    monkeypatch.undo()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_repeats_nothing(
    cluster: None, config: Config, store_of: Callable[[int], Path], tmp_path: Path
) -> None:
    given = config(source=store_of(120), shard_size=20, engine="ray", workers=2)
    victims: list[int] = []

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        thread = threading.Thread(target=kill_one, args=(given.output / "shards", victims))
        thread.start()
        yield lambda _: None
        thread.join()

    done = label_photographs(given, bar)
    assert len(victims) == 1
    assert (done["records"], len(done["shards"])) == (121, 7)
    reference = replace(given, output=tmp_path / "reference", engine="local")
    label_photographs(reference, quiet)
    assert records(given.output) == records(reference.output)
    assert files(given.output).keys() == files(reference.output).keys()


@pytest.mark.slow
def test_a_failure_on_a_worker_is_the_user_s_own_error(
    cluster: None, config: Config, store_of: Callable[[int], Path], tmp_path: Path
) -> None:
    given = config(source=store_of(11), engine="ray", workers=1)
    away = tmp_path / "away"

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        given.source.rename(away)  # listed, and then absent, as where the driver's machine alone has them
        yield lambda _: None

    with pytest.raises(DataError, match="is not on this worker's machine"):
        label_photographs(given, bar)
    # Ray stops the other workers, but does not wait for them: whole shards are what counts.
    assert not list((given.output / "shards").glob("*.jsonl"))
    away.rename(given.source)
    assert label_photographs(given, quiet)["records"] == 12
    assert sorted(path.name for path in (given.output / "shards").iterdir()) == [f"00000{n}.jsonl" for n in range(3)]


def test_what_nobody_foresaw_on_a_worker_comes_back_with_its_name(tmp_path: Path) -> None:
    task = ShardTask(0, str(tmp_path / "000000.jsonl"), ("a.png",))
    rows = _ShardRows(None)  # type: ignore[arg-type]  # which it cannot follow
    batch = {"task": np.array([pickle.dumps(task)], dtype=object)}
    answer = pickle.loads(rows(batch)["answer"][0])
    assert isinstance(answer, EngineError)
    assert str(answer).startswith("a worker failed (AttributeError: 'NoneType' object has no attribute 'root')")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_more_workers_than_cores_are_refused(cluster: None, config: Config) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        label_photographs(config(engine="ray", workers=3), quiet)
