"""A shard is whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgr_edge.bulk.shard import left_by_the_dead, line_of, read_shard, remove_partial, tasks_of, written_whole
from fgr_edge.errors import StorageError

NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def write(path: Path, names: list[str]) -> None:
    with written_whole(path) as file:
        file.writelines(line_of({"image": name}) for name in names)


def test_a_shard_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "000000.jsonl"
    with written_whole(path) as file:
        file.write(line_of({"image": "a.jpg"}))
        assert not path.exists()
    assert path.read_text() == '{"image": "a.jpg"}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "000000.jsonl"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"), written_whole(tmp_path / "gone" / "000000.jsonl"):
        pass


def test_the_photographs_are_cut_into_shards_each_once(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, NAMES, 2)
    assert [task.names for task in tasks] == [("a.jpg", "b.jpg"), ("c.jpg",)]
    assert [Path(task.file).name for task in tasks] == ["000000.jsonl", "000001.jsonl"]


@pytest.mark.parametrize(
    "names", [["a.jpg"], ["a.jpg", "b.jpg", "b.jpg"], ["b.jpg", "a.jpg", "c.jpg"], [*NAMES, "d.jpg"]]
)
def test_a_shard_with_other_photographs_than_planned_is_none(tmp_path: Path, names: list[str]) -> None:
    (task,) = tasks_of(tmp_path, NAMES, 3)
    assert read_shard(task) is None
    write(Path(task.file), names)
    assert read_shard(task) is None


def test_a_shard_that_lost_its_end_is_none(tmp_path: Path) -> None:
    (task,) = tasks_of(tmp_path, NAMES, 3)
    write(Path(task.file), NAMES)
    whole = read_shard(task)
    assert whole is not None and (whole.records, whole.errors) == (3, 0)
    data = Path(task.file).read_bytes()
    for end in (len(data) - 1, len(data) - 5, 0):
        Path(task.file).write_bytes(data[:end])
        assert read_shard(task) is None


def test_what_the_dead_left_is_counted_by_shard_and_removed(tmp_path: Path) -> None:
    for name, text in (
        (".000000.jsonl.7-aa.partial", "{}\n{}\n{"),
        (".000000.jsonl.8-bb.partial", ""),
        (".000001.jsonl.7-cc.partial", "{}\n"),
    ):
        (tmp_path / name).write_text(text)
    assert left_by_the_dead(tmp_path / "000000.jsonl") == [0, 2]
    remove_partial(tmp_path)
    assert not list(tmp_path.iterdir())
