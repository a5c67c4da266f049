"""A run's document as rows of one table, and those as Markdown, CSV or JSON: what `fgr-edge bench` prints.

Every format says whether the machine was quiet, and every percentile stands beside its number of samples.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Literal, NamedTuple

from fgr_edge.bench.document import Document, Starts
from fgr_edge.bench.spread import Spread
from fgr_edge.runtime.inspection import readable

Format = Literal["md", "json", "csv"]
COLUMNS = ("n", "p50", "mean", "p90", "p99", "iqr", "mad", "min", "max")
HEADS = ("test", "measure", "p50", "mean", "p90", "p99", "n", "IQR", "MAD")
LEGEND = (
    "p99 stands beside n, the samples that it is of; IQR is p75 - p25, MAD the median absolute deviation; of rates "
    "(tokens/s, GB/s) the high percentiles are the fast end; a single number stands under p50"
)
INNER = ("scored_tokens",)  # of interest to `labels_ms` alone
MB = 1e6


class Row(NamedTuple):
    """test: as llama-bench names them (pp512, tg128), or a mode; measure: with its unit; values: what was measured."""

    test: str
    measure: str
    values: Spread


def printed(document: Document, form: Format) -> str:
    """The document in one of the formats."""
    if form == "json":
        return json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    return markdown(document) if form == "md" else comma_separated(document)


def rows(document: Document) -> list[Row]:
    """Everything that was measured; what was not is left out."""
    return [
        *_tokens(document),
        *_answers(document),
        *_starts(document),
        *_memory(document),
        *_bandwidth(document),
        *_energy(document),
        *_concurrency(document),
    ]


def markdown(document: Document) -> str:
    """For a person, and for an issue or a README: facts, the table, what to know of it."""
    lines = [HEADS, ["---", "---", *["---:"] * (len(HEADS) - 2)], *(cells(row) for row in rows(document))]
    table = [f"| {' | '.join(line)} |" for line in lines]
    missing = [f"- not measured: {text}" for text in not_measured(document)]
    notes = [f"- {note}" for note in document["notes"]]
    facts = [f"{name}: {value}  " for name, value in fact_rows(document)]
    quiet = f"machine while measuring: {quietness(document)}"
    return "\n".join([*facts, quiet, "", *table, "", f"- {LEGEND}", *missing, *notes])


def comma_separated(document: Document) -> str:
    """One line a measure, the facts repeated in each, so that files of several runs can be joined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("model", "target", "device", "precision", "threads", "products", "cpu", "quiet", "noise")
    writer.writerow((*names, "test", "measure", *COLUMNS))
    bundle, settings = document["bundle"], document["settings"]
    facts = (
        bundle["name"],
        bundle["target"],
        settings["device"],
        precision(document),
        "" if settings["threads"] is None else settings["threads"],
        settings["products"] or "",
        document["machine"]["cpu"] or "",
        str(document["noise"]["quiet"]).lower(),
        "; ".join(document["noise"]["findings"]),
    )
    for row in rows(document):
        values = row.values
        numbers = ["" if values[column] is None else values[column] for column in COLUMNS]  # type: ignore[literal-required]
        writer.writerow((*facts, row.test, row.measure, *numbers))
    return text.getvalue().rstrip("\n")


def fact_rows(document: Document) -> list[tuple[str, str]]:
    """What was measured, where and how."""
    bundle, settings, machine = document["bundle"], document["settings"], document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    pictures = f"{len(settings['pictures'])} {'drawn' if settings['pictures_drawn'] else 'given'}"
    threads = "as the runtime chooses" if settings["threads"] is None else str(settings["threads"])
    hardware = (
        machine["cpu"] or "unknown CPU",
        f"{machine['cores']} cores",
        readable(machine["memory_bytes"]),
        machine["os"],
    )
    allowed = f"cores allowed: {document['noise']['cores_allowed'] or 'unknown'}"
    rounds = f"{settings['rounds']} rounds after {settings['warmups']} of warm-up"
    products = [] if settings["products"] is None else [("products", f"of quantized weights: {settings['products']}")]
    return [
        ("model", f"{bundle['name']} ({precision(document)}), {readable(bundle['total_bytes'])}"),
        ("target", f"{bundle['target']}, run on {settings['device']}, threads of one operator: {threads}, {allowed}"),
        *products,
        ("asked", f"{pictures} pictures, {bundle['labels'] or 'no'} labels, {rounds}"),
        ("machine", ", ".join(hardware)),
        ("versions", f"Python {machine['python']}, {versions}"),
        ("command", document["command"]),
    ]


def precision(document: Document) -> str:
    """One word where all parts have one precision."""
    parts = {part: kind for part, kind in document["bundle"]["precision"].items() if part != "embedding"}
    kinds = set(parts.values())
    return kinds.pop() if len(kinds) == 1 else ", ".join(f"{part} {kind}" for part, kind in parts.items())


def quietness(document: Document) -> str:
    """One sentence."""
    noise = document["noise"]
    if noise["quiet"]:
        return "quiet"
    return f"NOISY: {'; '.join(noise['findings'])}. Do not quote these numbers as the bundle's."


def not_measured(document: Document) -> list[str]:
    """What is null, and why."""
    found = [
        ("cold start", document["cold_start"]["not_measured"]),
        ("peak memory", document["memory"]["not_measured"]),
        ("bandwidth and roofline", document["bandwidth"]["not_measured"]),
    ]
    lines = [f"{name}: {reason}" for name, reason in found if reason is not None]
    lines += [f"joules by {name}: {reason}" for name, reason in document["energy"]["not_measured"].items()]
    return lines


def single(value: float) -> Spread:
    """A number of which there is one."""
    return Spread(n=1, p50=value, mean=None, p90=None, p99=None, iqr=None, mad=None, min=None, max=None)


def cells(row: Row) -> list[str]:
    """Texts under `HEADS`."""
    values = row.values
    middle = (values["p50"], values["mean"], values["p90"], values["p99"])
    return [
        row.test,
        row.measure,
        *map(figure, middle),
        str(values["n"]),
        figure(values["iqr"]),
        figure(values["mad"]),
    ]


def figure(value: float | None) -> str:
    """A number for a table: four significant digits, whole ones above 1,000."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _tokens(document: Document) -> Iterator[Row]:
    for prefill in document["prefill"]:
        test = f"pp{prefill['prompt_tokens']}"
        yield Row(test, "prefill_ms", prefill["prefill_ms"])
        yield Row(test, "tokens_per_s", prefill["tokens_per_s"])
    for decode in document["decode"]:
        test = f"tg{decode['new_tokens']} @ {decode['context_start_tokens']}"
        yield Row(test, "tpot_ms", decode["tpot_ms"])
        yield Row(test, "tokens_per_s", decode["tokens_per_s"])
        yield Row(test, "read_mb_per_token", single(decode["bytes_per_token"] / MB))
        if decode["full_head_share"] is not None:
            yield Row(test, "full_head_share", single(decode["full_head_share"]))
        if decode["roofline_tokens_per_s"] is not None:
            yield Row(test, "roofline_tokens_per_s", single(decode["roofline_tokens_per_s"]))
        if decode["roofline_share"] is not None:
            yield Row(test, "roofline_share", decode["roofline_share"])


def _answers(document: Document) -> Iterator[Row]:
    for mode, answers in document["answers"].items():
        generated = answers["stages"].get("generated_tokens", single(0))["p50"]
        for name, values in answers["stages"].items():
            if values["max"] and name not in INNER and (generated or name != "decode_ms"):  # what did not happen is out
                yield Row(mode, name, values)
        if answers["tokens_per_call"] is not None:
            yield Row(mode, "tokens_per_call", single(answers["tokens_per_call"]))
        yield Row(mode, "answer_ms", answers["answer_ms"])
        if answers["reasoned_share"] is not None:
            yield Row(mode, "reasoned_share", single(answers["reasoned_share"]))
        yield Row(mode, "abstained_share", single(answers["abstained_share"]))


def _starts(document: Document) -> Iterator[Row]:
    kinds: tuple[tuple[str, Starts | None], ...] = (
        ("cold start, cached", document["cold_start"]["cached"]),
        ("cold start, uncached", document["cold_start"]["uncached"]),
    )
    for test, starts in kinds:
        if starts is not None:
            yield Row(test, "first_answer_ms", starts["first_answer_ms"])
            yield Row(test, "import_ms", starts["import_ms"])
            yield Row(test, "open_ms", starts["open_ms"])
            yield Row(test, "answer_ms", starts["answer_ms"])
            yield Row(test, "disk_read_mb", single(starts["disk_read_bytes"] / MB))


def _memory(document: Document) -> Iterator[Row]:
    memory = document["memory"]
    for mode, peak in memory["peak_bytes"].items():
        yield Row(f"memory, {mode}", "peak_mb", single(peak / MB))
        if mode in memory["anonymous_bytes"]:
            yield Row(f"memory, {mode}", "anonymous_mb", single(memory["anonymous_bytes"][mode] / MB))
        yield Row(f"memory, {mode}", "peak_over_weights_and_cache", single(memory["over_weights"][mode]))


def _bandwidth(document: Document) -> Iterator[Row]:
    rates = document["bandwidth"]["read_gbps"]
    if rates is not None:
        yield Row("memory reads", "bandwidth_gbps", rates)


def _energy(document: Document) -> Iterator[Row]:
    for meter in document["energy"]["meters"]:
        test = f"{meter['meter']}, {meter['covers']}"
        yield Row(test, "idle_watts", single(meter["idle_watts"]))
        for name, joules in meter["joules_each"].items():
            yield Row(test, f"joules_per_{name}", single(joules))


def _concurrency(document: Document) -> Iterator[Row]:
    for level in document["concurrency"]:
        test = f"{level['recognizers']} at once"
        yield Row(test, "answers_per_s", single(level["answers_per_s"]))
        yield Row(test, "answer_ms", level["answer_ms"])
