"""A real bundle, measured with tiny settings: what is told is what was done."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fgr_edge.bench import bandwidth
from fgr_edge.bench.answers import Asker
from fgr_edge.bench.benchmark import bench
from fgr_edge.bench.config import BenchConfig
from fgr_edge.bench.document import Document
from fgr_edge.bench.page import check_writable, page, write_page
from fgr_edge.bench.plots import figures
from fgr_edge.bench.table import COLUMNS, comma_separated, fact_rows, markdown, printed, rows
from fgr_edge.bench.tokens import prompt_tokens
from fgr_edge.bench.traffic import Traffic
from fgr_edge.errors import ConfigError, ImageError, StorageError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.recognizer import Recognizer
from tests.command import Done

ROUNDS, PICTURES = 2, 2


@contextmanager
def no_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="module", autouse=True)
def small_array() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "ARRAY_BYTES", 1 << 24)
        yield


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fgr_edge.data.aviary import SPECIES
    from fgr_edge.data.aviary_drawing import draw

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        draw(SPECIES[number], number, 112).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(nano_bundle: Callable[..., Path], nano_labels: Path) -> Path:
    return nano_bundle("int8", nano_labels)


@pytest.fixture(scope="module")
def document(bundle: Path, birds_folder: Path) -> Document:
    config = BenchConfig(
        bundle,
        birds_folder,
        prompt_tokens=(16, 64),
        new_tokens=(8,),
        rounds=ROUNDS,
        think_budget=4,
        cascade_below=1.0,
        concurrency=(1, 2),
        starts=1,
        level_s=0.01,
        work_s=0.01,
    )
    return bench(config, no_bar)


def test_every_measure_counts_what_was_asked_for(document: Document) -> None:
    assert [row["prompt_tokens"] for row in document["prefill"]] == [16, 64]
    assert [row["prefill_ms"]["n"] for row in document["prefill"]] == [ROUNDS, ROUNDS]
    (decode,) = document["decode"]
    assert decode["tpot_ms"]["n"] == 8 * ROUNDS and decode["tokens_per_s"]["n"] == ROUNDS
    assert list(document["answers"]) == ["direct", "reason", "cascade"]
    assert {found["answer_ms"]["n"] for found in document["answers"].values()} == {ROUNDS * PICTURES}
    assert document["bandwidth"]["read_gbps"] is not None
    assert document["bandwidth"]["read_gbps"]["n"] == ROUNDS
    assert [level["recognizers"] for level in document["concurrency"]] == [1, 2]
    assert len(document["concurrency"][1]["p99_ms_of_each"]) == 2


def test_the_stages_of_an_answer_add_up_to_it(document: Document) -> None:
    for mode in ("direct", "reason"):
        found = document["answers"][mode]
        parts = ("preprocess_ms", "vision_ms", "prefill_ms", "decode_ms", "labels_ms")
        means = [found["stages"][part]["mean"] or 0 for part in parts]
        whole = found["answer_ms"]["mean"] or 0
        assert 0.5 * whole < sum(means) <= whole
    thought = document["answers"]["reason"]["stages"]["generated_tokens"]
    assert thought["max"] is not None and 1 <= thought["max"] <= 4  # the budget
    assert document["answers"]["direct"]["stages"]["generated_tokens"]["max"] == 0


def test_a_cascade_below_certainty_always_reasons(document: Document) -> None:
    cascade = document["answers"]["cascade"]
    assert cascade["reasoned_share"] == 1 and cascade["stages"] == {}
    assert document["answers"]["direct"]["reasoned_share"] is None
    assert any(f"{ROUNDS * PICTURES} of {ROUNDS * PICTURES} went on" in note for note in document["notes"])


def test_a_thought_is_not_guessed_from_the_last_round_s(bundle: Path, birds_folder: Path) -> None:
    recognizer = Recognizer(bundle)
    asker = Asker(recognizer, [birds_folder / "0.png"], 0.5, 8)
    speculation = recognizer._reader.speculation
    assert speculation is not None

    def learned() -> int:
        return len(speculation._drafter._table or ())

    recognizer.forget_texts()
    known = learned()
    sizes = []
    for _ in range(2):
        asker.ask_all("reason")
        sizes.append(learned())
    assert sizes[0] == sizes[1] > known
    asker.ask_all("direct")
    assert learned() == known


def test_the_picture_is_kept_within_a_cascade_and_nowhere_else(bundle: Path, birds_folder: Path) -> None:
    recognizer = Recognizer(bundle, keep_picture=True)
    asker = Asker(recognizer, [birds_folder / "0.png"], 1.0, 2)
    seen = []
    for mode in ("direct", "direct", "reason", "cascade"):
        before = recognizer._reader.picture.number
        asker.ask(0, mode)
        seen.append(recognizer._reader.picture.number - before)
    assert seen == [1, 2, 2, 2]  # from the second on with another picture before; both calls of the cascade are one


def test_decode_is_held_against_the_bandwidth_of_its_own_round(document: Document, bundle: Path) -> None:
    (decode,) = document["decode"]
    samples = document["samples"]
    assert decode["roofline_share"] is not None
    shares = [
        rate * decode["bytes_per_token"] / 1e9 / gbps
        for rate, gbps in zip(samples["tg8_tokens_per_s"], samples["read_bandwidth_gbps"], strict=True)
    ]
    assert decode["roofline_share"]["max"] == pytest.approx(max(shares), rel=1e-3)
    weights = Bundle.open(bundle).manifest["files"]["decoder.onnx.data"]["size"]
    cache = 2 * 4 * 64 * 4  # at least: key and value, layers, a head's width, float32
    assert weights + cache * decode["context_start_tokens"] < decode["bytes_per_token"] < 2 * weights


def test_a_fresh_process_is_measured_and_not_this_one(document: Document) -> None:
    cached = document["cold_start"]["cached"]
    assert cached is not None
    parts = sum(cached[name]["p50"] or 0 for name in ("import_ms", "open_ms", "answer_ms"))
    assert 0 < parts < (cached["first_answer_ms"]["p50"] or 0)
    memory = document["memory"]
    assert set(memory["peak_bytes"]) == {"direct", "reason"}
    assert 20e6 < memory["peak_bytes"]["direct"] < 500e6
    weights = document["bundle"]["weight_bytes"] + memory["cache_bytes"]["direct"]
    assert memory["over_weights"]["direct"] == pytest.approx(memory["peak_bytes"]["direct"] / weights, rel=1e-3)


def test_what_cannot_be_measured_is_null_with_its_reason(document: Document) -> None:
    energy = document["energy"]
    named = {row["meter"] for row in energy["meters"]} | set(energy["not_measured"])
    assert {"rapl", "nvml", "ina3221"} <= named
    assert all(energy["not_measured"].values())


def test_the_document_is_json_without_paths_of_the_machine(document: Document, bundle: Path) -> None:
    text = printed(document, "json")
    assert json.loads(text) == document
    assert str(bundle.parent) not in text and "/tmp" not in text and str(Path.home()) not in text
    assert document["command"].startswith(f"fgr-edge bench {bundle.name} -p 16,64 -n 8 -r 2 --images ")
    assert document["settings"]["threads"] is None and document["noise"]["cores_allowed"]


def test_it_is_said_whose_products_were_measured(document: Document) -> None:
    own = library.instructions()
    products = "onnxruntime" if own is None else f"fgr-edge {own}"
    assert document["settings"]["products"] == products
    assert ("products", f"of quantized weights: {products}") in fact_rows(document)
    (first, *_) = csv.DictReader(io.StringIO(comma_separated(document)))
    assert first["products"] == products


def test_every_format_has_every_measure_with_its_samples_and_says_whether_it_was_quiet(document: Document) -> None:
    document["noise"]["quiet"] = False
    document["noise"]["findings"] = ["other processes took 50 % of the cores' time"]
    every = rows(document)
    tests = {row.test for row in every}
    assert {"pp16", "pp64", "direct", "reason", "cascade", "cold start, cached", "memory reads", "2 at once"} <= tests
    table = list(csv.DictReader(io.StringIO(comma_separated(document))))
    assert [(line["test"], line["measure"]) for line in table] == [(row.test, row.measure) for row in every]
    assert all(int(line["n"]) >= 1 for line in table)
    assert {line["quiet"] for line in table} == {"false"} and "50 %" in table[0]["noise"]
    assert set(COLUMNS) < set(table[0])
    text = markdown(document)
    assert text.count("\n| ") >= len(every) and "NOISY: other processes took 50 %" in text
    assert "p99 of 4 answers" in text
    assert "do not quote" in page(document) and "50 %" in page(document)


def test_units_stand_in_the_name_of_every_measure(document: Document) -> None:
    units = (
        "_ms",
        "_per_s",
        "_per_token",
        "_share",
        "_tokens",
        "_mb",
        "_gbps",
        "_watts",
        "_answer",
        "_and_cache",
        "_call",
    )
    assert [row.measure for row in rows(document) if not row.measure.endswith(units)] == []


def test_the_page_needs_nothing_beside_itself(document: Document, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    check_writable(path)
    write_page(document, path)
    text = path.read_text()
    assert not re.search(r"<script|<link|src=|href=|@import|url\(", text)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    for row in rows(document):
        assert row.measure in text


def test_every_plot_is_whole_and_its_marks_stay_inside(document: Document) -> None:
    drawn = [svg for svg, _ in figures(document)]
    assert len(drawn) == 6  # stages, answers, rounds, token times, throughput, tails
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        width, height = (float(one) for one in root.attrib["viewBox"].split()[2:])
        for mark in root.iter():
            if mark.tag.endswith("circle"):
                assert 0 <= float(mark.attrib["cx"]) <= width and 0 <= float(mark.attrib["cy"]) <= height
        assert "nan" not in svg


def test_the_screen_of_a_head_is_what_is_read_and_the_head_only_where_it_could_not_tell() -> None:
    traffic = Traffic(weight_bytes=100, head_bytes=40, embedding_row_bytes=2, cache_bytes_per_token=3)
    assert traffic.bytes_per_token(9) == 100 + 2 + 30
    assert traffic.bytes_per_token(9, full_head_share=0.5) == 100 + 20 + 2 + 30


def test_more_tokens_than_positions_are_refused_before_anything_is_measured(bundle: Path, birds_folder: Path) -> None:
    for counts in ({"new_tokens": (2000,)}, {"prompt_tokens": (1025,)}):
        with pytest.raises(ConfigError, match="positions for 1024"):
            bench(BenchConfig(bundle, birds_folder, **counts), no_bar)  # type: ignore[arg-type]


def test_a_prompt_is_counted_as_the_recognizer_counts_it(document: Document, bundle: Path, birds_folder: Path) -> None:
    counted = prompt_tokens(Bundle.open(bundle), birds_folder / "0.png")
    assert document["answers"]["reason"]["stages"]["prompt_tokens"]["p50"] == counted
    assert document["decode"][0]["context_start_tokens"] == counted


def test_a_prompt_that_leaves_too_few_positions_names_what_fits(bundle: Path, birds_folder: Path) -> None:
    config = BenchConfig(bundle, birds_folder, prompt_tokens=(), new_tokens=(1024,), starts=0)
    with pytest.raises(ConfigError, match=r"after the \d+ of the picture's prompt.*give -n \d+ at most"):
        bench(config, no_bar)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"modes": ("fast",)}, "modes are fast"),
        ({"cascade_below": 1.5}, "cascade_below is 1.5"),
        ({"concurrency": (0,)}, "at least 1 recognizer"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchConfig(Path("bundle"), **options)  # type: ignore[arg-type]


def test_a_page_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to"):
        check_writable(tmp_path / "file" / "report.html")


Command = Callable[..., Done]


def test_bad_input_is_one_line_and_exit_1(fgr_edge: Command, bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    cases = (
        ((tmp_path,), "is no bundle"),
        ((bundle, "-n", "5000"), "-n asks for 5000 tokens, the model has positions for 1024"),
        ((bundle, "-p", "x"), "-p holds 'x'"),
        ((bundle, "--images", broken), "is not a picture"),
        ((bundle, "--images", tmp_path / "nothing"), "there is no file or folder"),
        ((bundle, "--modes", "guess"), "modes are guess"),
    )
    for arguments, message in cases:
        done = fgr_edge("bench", *arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert done.err.count("\n") == 1 and message in done.err


def test_an_unknown_format_is_a_usage_error(fgr_edge: Command, bundle: Path) -> None:
    done = fgr_edge("bench", bundle, "-o", "xml")
    assert done.code == 2 and "xml" in done.err


def test_the_command_prints_one_json_document(fgr_edge: Command, bundle: Path, birds_folder: Path) -> None:
    picture = birds_folder / "0.png"
    arguments = ("-p", "0", "-n", "4", "-r", "1", "--starts", "0", "--modes", "direct", "--warmups", "0", "-o", "json")
    done = fgr_edge("bench", bundle, *arguments, "--images", picture)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["prefill"] == [] and found["decode"][0]["tpot_ms"]["n"] == 4
    assert found["cold_start"] == {"cached": None, "uncached": None, "not_measured": "--starts 0 was asked for"}
    assert found["settings"]["pictures"] == ["0.png"]


def test_without_pictures_the_aviary_is_drawn(tmp_path: Path) -> None:
    from fgr_edge.bench.pictures import DRAWN, open_pictures

    assert len(open_pictures(None, tmp_path)) == DRAWN
    with pytest.raises(ImageError, match="holds no picture"):
        (tmp_path / "empty").mkdir()
        open_pictures(tmp_path / "empty", tmp_path)
