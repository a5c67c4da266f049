"""The plots of a run's page. In: a `Document`. Out: (SVG, caption) each; nothing where it was not measured."""

from __future__ import annotations

from collections.abc import Iterator

from fgr_edge.bench.document import Document
from fgr_edge.bench.svg import COLOURS, Plot, around, counting, number, text

PARTS = ("preprocess_ms", "vision_ms", "prefill_ms", "decode_ms", "labels_ms")
BAR_PX, GAP_PX = 26, 34
Figure = tuple[str, str]


def figures(document: Document) -> Iterator[Figure]:
    """All that there are."""
    yield _stages(document)
    yield _answers(document)
    for decode in document["decode"]:
        name = f"tg{decode['new_tokens']}"
        yield _rounds(document, name, decode["bytes_per_token"])
        yield _token_times(document, name)
    if len(document["concurrency"]) > 1:
        yield _throughput(document)
        yield _tails(document)


def _stages(document: Document) -> Figure:
    """Shares of the mean time of each mode: means add up, medians do not."""
    modes = {mode: found for mode, found in document["answers"].items() if found["stages"]}
    width, left = 480.0, 62.0
    height = 34 + len(modes) * (BAR_PX + GAP_PX)
    marks: list[str] = []
    place = left
    for part, colour in zip(PARTS, COLOURS, strict=False):
        name = part.removesuffix("_ms")
        marks.append(text(place, 14, name, colour=colour))
        place += 6.6 * len(name) + 18
    for row, (mode, found) in enumerate(modes.items()):
        top = 34 + row * (BAR_PX + GAP_PX)
        means = [found["stages"][part]["mean"] or 0.0 for part in PARTS]
        whole, start = sum(means) or 1.0, left
        marks.append(text(left - 8, top + 18, mode, anchor="end"))
        for part, mean, colour in zip(PARTS, means, COLOURS, strict=False):
            across = (width - left - 8) * mean / whole
            marks.append(
                f'<rect x="{start:.1f}" y="{top}" width="{across:.1f}" height="{BAR_PX}" fill="{colour}">'
                f"<title>{part.removesuffix('_ms')} {mean:.4g} ms</title></rect>"
            )
            if across > 34:
                marks.append(text(start + across / 2, top + 17, f"{mean:.3g}", anchor="middle", colour="#fff"))
            start += across
        marks.append(text(left, top + BAR_PX + 15, f"{number(round(whole, 1))} ms in the mean"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="system-ui,Helvetica,Arial,sans-serif" font-size="12" role="img">{"".join(marks)}</svg>'
    )
    return svg, "Where the time of an answer goes: milliseconds of each stage, each bar a whole answer."


def _answers(document: Document) -> Figure:
    """Every answer, in the order measured."""
    series = {mode: document["samples"][f"{mode}_answer_ms"] for mode in document["answers"]}
    every = [ms for values in series.values() for ms in values]
    longest = max(len(values) for values in series.values())
    plot = Plot(counting("answers, in the order measured", [1, longest]), around("ms", every, log=True))
    for (mode, values), colour in zip(series.items(), COLOURS, strict=False):
        plot.dots([(place + 1, ms) for place, ms in enumerate(values)], colour, mode)
        plot.level(document["answers"][mode]["answer_ms"]["p50"] or every[0], colour)
    return (
        plot.svg(),
        "Picture to answer, every one of them. Dashed: medians. A trend is the machine's doing.",
    )


def _rounds(document: Document, name: str, bytes_per_token: int) -> Figure:
    """Decode speed of each repetition, below what the bandwidth of its round allows."""
    rates = document["samples"][f"{name}_tokens_per_s"]
    limits = [gbps * 1e9 / bytes_per_token for gbps in document["samples"]["read_bandwidth_gbps"]]
    plot = Plot(counting("round", [1, len(rates)]), around("tokens/s", [*rates, *limits], zero=True))
    if limits:
        plot.line([(place + 1, value) for place, value in enumerate(limits)], COLOURS[5], "bandwidth allows", "5 4")
    plot.line([(place + 1, value) for place, value in enumerate(rates)], COLOURS[0])
    plot.dots([(place + 1, value) for place, value in enumerate(rates)], COLOURS[0], "reached")
    return plot.svg(), f"{name}: decode speed of each round, and the roofline: the bandwidth of that round over " + (
        f"{bytes_per_token / 1e6:.1f} MB a token."
    )


def _token_times(document: Document, name: str) -> Figure:
    """How many tokens took at most so long."""
    times = sorted(document["samples"][f"{name}_tpot_ms"])
    plot = Plot(around("ms a token", times, log=True), around("share of tokens", [0.0, 1.0], zero=True))
    plot.line([(ms, (place + 1) / len(times)) for place, ms in enumerate(times)], COLOURS[0])
    for share, colour in ((0.5, COLOURS[2]), (0.99, COLOURS[4])):
        plot.level(share, colour, f"p{100 * share:g}")
    return plot.svg(), f"{name}: time per output token, {len(times)} tokens. A long tail is felt as stutter."


def _throughput(document: Document) -> Figure:
    points = [(float(level["recognizers"]), level["answers_per_s"]) for level in document["concurrency"]]
    plot = Plot(
        counting("recognizers at once", [x for x, _ in points]),
        around("answers/s", [y for _, y in points], zero=True),
    )
    plot.line(points, COLOURS[0])
    plot.dots(points, COLOURS[0])
    return plot.svg(), "Throughput of several recognizers at once, direct mode."


def _tails(document: Document) -> Figure:
    series = {
        name: [(float(level["recognizers"]), level["answer_ms"][name] or 0.0) for level in document["concurrency"]]
        for name in ("p50", "p99")
    }
    every = [y for points in series.values() for _, y in points]
    counts = [x for x, _ in series["p50"]]
    plot = Plot(counting("recognizers at once", counts), around("ms", every, zero=True))
    for (name, points), colour in zip(series.items(), (COLOURS[2], COLOURS[4]), strict=True):
        plot.line(points, colour, name)
        plot.dots(points, colour)
    return plot.svg(), "What that costs each answer."
