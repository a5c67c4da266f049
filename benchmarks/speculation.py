"""What guessing tokens gains: tokens a step on texts that a model wrote, tokens a second on a bundle's own thoughts.

texts       no model runs: texts are taken as what the model says, one after the other, greedy. A step is one decoder
            call: it gives the token that follows, and those after it that were guessed. Tables are built as the runtime
            builds them, `Drafter` guesses, every drafted row is counted, right or wrong.
              earlier  a table of `--earlier` texts (shuffled by a fixed seed), measured on the `--measured` after them.
              online   from nothing, in the file's order, each text learning from those before it.
bundles     `Recognizer` in reason mode, with and without speculation, on photographs and on drawn birds. The phrases
            are the model's thoughts about `--phrases` pictures that it was trained on; none of them is measured. A
            round opens fresh recognizers, in an order that turns, lets each think about one of those pictures, and
            shuffles the held-out ones: they are measured one by one, the variants taking turns.
              plain            one token a call.
              learning         speculation from nothing: what it guesses from is what it wrote in this round.
              phrases          and from the phrases that are stored in the bundle.
              phrases, rounded as that, near ties not made again (`speculate="rounded"`).

rows        a decoder call of several tokens, beside one of one token, on bundles of any size: random tokens, logits of
            every row read. Tokens a step over this is what speculation can gain.

    python benchmarks/speculation.py [--texts FILE --tokenizer FILE] [--rows DIR ...] [--bundle DIR ...]
                                     [--no-drawings] [--photographs LIST --training LIST]
                                     [--phrases 1000]
                                     [--rounds 4] [--pictures 60] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.report import publish, ratio, table
from benchmarks.speculation_rows import BUNDLE_HEAD, ROWS_HEAD, TEXT_HEAD, bundle_rows, cost_rows, text_rows
from fgr_edge.runtime.guessing.drafts import BRANCHES, Drafter
from fgr_edge.runtime.guessing.ngrams import NgramTable
from fgr_edge.runtime.guessing.pace import ROWS
from fgr_edge.runtime.guessing.speculation import SpeculationCounts

Ids = list[int]
One = TypeVar("One")
CONFIGS = ((8, 1), (8, BRANCHES), (16, BRANCHES))  # rows of a call, branches of a node
CONTEXT, CALLS = 400, 8  # tokens in the cache when calls are timed; calls of a size in a round
PLAIN = "plain"
VARIANTS: dict[str, tuple[bool, Any]] = {  # phrases in the bundle, speculate
    PLAIN: (False, False),
    "learning": (False, True),
    "phrases": (True, True),
    "phrases, rounded": (True, "rounded"),
}


# 1. Texts


@dataclass(slots=True)
class Steps:
    """Of a simulated text: tokens written, calls, rows drafted, drafted rows that held."""

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    held: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens_per_step": ratio(self.tokens, self.steps),
            "drafted_rows_per_step": ratio(self.drafted, self.steps),
            "acceptance": ratio(self.held, self.drafted),
            "guessing_us_per_step": round(1e6 * self.seconds / max(1, self.steps), 1),
        }


def simulate(drafter: Drafter, prompt: Ids, text: Ids, rows: int, done: Steps, *, learn: bool) -> None:
    """Write one text; the first token comes with the prompt."""
    start = time.process_time()
    drafter.begin(prompt)
    drafter.take(text[0])
    at = 1
    while at < len(text):
        draft = drafter.draft(rows - 1)
        children = {pair: place for place, pair in enumerate(zip(draft.parents, draft.tokens, strict=True))}
        node, held = -1, 0
        while at + held < len(text) and (node, text[at + held]) in children:
            node = children[node, text[at + held]]
            held += 1
        taken = min(held + 1, len(text) - at)
        for place, token in enumerate(text[at : at + taken]):
            drafter.take(token, guessed=place < held)
        at += taken
        done.steps += 1
        done.drafted += len(draft.tokens)
        done.held += held
    if learn:
        drafter.finish()
    done.tokens += len(text) - 1
    done.seconds += time.process_time() - start


def read_texts(path: Path, tokenizer: Path) -> list[tuple[Ids, Ids]]:
    """Questions and answers, in tokens, of records in sharegpt form; the answer ends with the turn."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer))
    end = encode.encode("<|im_end|>", add_special_tokens=False).ids
    texts = []
    for record in json.loads(path.read_text(encoding="utf-8")):
        said = {message["role"]: message["content"] for message in record["messages"]}
        question, answer = (encode.encode(said[role], add_special_tokens=False).ids for role in ("user", "assistant"))
        texts.append((question, [*answer, *end]))
    return texts


def texts_of(path: Path, tokenizer: Path, earlier: int, measured: int) -> dict[str, Any]:
    """Both protocols, every configuration."""
    texts = read_texts(path, tokenizer)
    shuffled = random.Random(0).sample(texts, len(texts))
    table_of = NgramTable()
    for _, text in shuffled[:earlier]:
        table_of.add(text)
    rows = []
    for most, branches in CONFIGS:
        before, online = Steps(), Steps()
        drafter = Drafter(lambda: table_of, branches=branches)
        for question, text in shuffled[earlier : earlier + measured]:
            simulate(drafter, question, text, most, before, learn=False)
        drafter = Drafter(NgramTable, branches=branches)
        for question, text in texts:
            simulate(drafter, question, text, most, online, learn=True)
        rows.append({"rows": most, "branches": branches, "earlier": before.to_json(), "online": online.to_json()})
    tokens = sum(len(text) for _, text in texts) / len(texts)
    return {"texts": len(texts), "earlier": earlier, "measured": measured, "tokens_mean": round(tokens, 1), "of": rows}


# 2. Bundles


@dataclass(slots=True)
class Told(SpeculationCounts):
    """What one variant did in one round; its `tokens` are those of answers, not of thoughts alone."""

    decode_ms: float = 0.0
    total_ms: float = 0.0
    differ: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.decode_ms * 1e3


def with_phrases(bundle: Path, folder: Path, texts: Sequence[str]) -> Path:
    """A copy of a bundle that holds these texts."""
    from fgr_edge.runtime.bundle import TOKENIZER, Bundle
    from fgr_edge.runtime.bundle_amendment import BundleAmendment
    from fgr_edge.runtime.guessing.phrases import PHRASES, save_phrases
    from fgr_edge.runtime.prompt import PromptBuilder, PromptSpec
    from fgr_edge.runtime.specs import read_spec

    made = Path(shutil.copytree(bundle, folder / "phrases", dirs_exist_ok=True))
    opened = Bundle.open(made)
    prompts = PromptBuilder(opened.file(TOKENIZER), read_spec(PromptSpec, opened.manifest["prompt"], "prompt"))
    with BundleAmendment(made) as amendment:
        ids = [prompts.encode_text(text) for text in texts]
        save_phrases(amendment.path(PHRASES), ids, opened.manifest["files"][TOKENIZER]["sha256"])
    return made


def thoughts(bundle: Path, pictures: Sequence[Any], labels: Sequence[str], threads: int) -> list[str]:
    """What the model thinks about pictures."""
    from fgr_edge import Recognizer

    writer = Recognizer(bundle, labels, threads=threads, speculate=False)
    return [text_of(writer(picture, mode="reason").text) for picture in pictures]


def one_round(
    places: dict[bool, Path], pictures: Sequence[Any], labels: Sequence[str], threads: int, *, warm: Any, turn: int
) -> dict[str, Told]:
    """Every variant on every picture.

    Args:
        places: the bundle without phrases and with them.
        warm: a picture that is thought about before the others.
        turn: where the order begins in which recognizers are opened: what is opened later has other memory.
    """
    from fgr_edge import Recognizer

    variants = {}
    for name in turned(list(VARIANTS), turn):
        stored, speculate = VARIANTS[name]
        variants[name] = Recognizer(places[stored], labels, threads=threads, speculate=speculate)
        variants[name](warm, mode="reason")
    told = {name: Told() for name in VARIANTS}
    before = {name: copy(one.speculated) for name, one in variants.items()}
    for number, picture in enumerate(pictures):
        said: dict[str, str] = {}
        for name in turned(list(VARIANTS), number):
            found = variants[name](picture, mode="reason")
            said[name] = found.text
            told[name].tokens += found.timings.generated_tokens
            told[name].decode_ms += found.timings.decode_ms
            told[name].total_ms += found.timings.total_ms
        for name, text in said.items():
            told[name].differ += text != said[PLAIN]
    for name, recognizer in variants.items():
        counts, first = recognizer.speculated, before[name]
        if counts is not None and first is not None:
            for field in ("calls", "drafted", "near_ties", "again", "rested"):
                setattr(told[name], field, getattr(counts, field) - getattr(first, field))
            told[name].rounding = counts.rounding
    return told


def text_of(answer: str) -> str:
    """The thought of an answer, as the model wrote it."""
    from fgr_edge.runtime.answer import THINK_END

    return answer.split(THINK_END)[0] + THINK_END


def turned(names: list[One], by: int) -> Iterator[One]:
    """The names in an order that turns from picture to picture."""
    turn = by % len(names)
    yield from (*names[turn:], *names[:turn])


@dataclass(frozen=True, slots=True)
class Pictures:
    """measured, training: pictures that the model was not trained on, and others that it was."""

    measured: Sequence[Any]
    training: Sequence[Any]
    labels: Sequence[str]


def photographs(path: Path, training: Path, phrases: int) -> Pictures:
    """The pictures of two labelled lists, and the classes of the first."""
    from fgr_edge.data.labelled import read_labelled

    rows, others = read_labelled(path), [row.path for row in read_labelled(training)]
    chosen = random.Random(0).sample(others, min(phrases, len(others)))
    return Pictures([row.path for row in rows], chosen, sorted({row.label for row in rows}))


def drawings(count: int, phrases: int) -> Pictures:
    """Drawings, species in turns, and all species."""
    from fgr_edge.data.aviary import HELD_OUT_SEEDS, SPECIES, TRAINING_SEEDS
    from fgr_edge.data.aviary_drawing import draw

    measured, training = (
        [draw(SPECIES[n % len(SPECIES)], seeds[n]) for n in range(most)]
        for seeds, most in ((HELD_OUT_SEEDS, count), (TRAINING_SEEDS, phrases))
    )
    return Pictures(measured, training, sorted(species.name for species in SPECIES))


def summary(rounds: Sequence[dict[str, Told]]) -> dict[str, Any]:
    """Medians over rounds; ratios are of the same round."""
    found = {}
    for name in VARIANTS:
        told = [one[name] for one in rounds]
        gains = [one[name].tokens_per_s / one[PLAIN].tokens_per_s for one in rounds]
        sooner = [one[PLAIN].total_ms / one[name].total_ms for one in rounds]
        speculated = name != PLAIN
        found[name] = {
            "tokens_per_s": round(statistics.median(one.tokens_per_s for one in told), 1),
            "of_plain": round(statistics.median(gains), 3),
            "of_plain_range": [round(min(gains), 3), round(max(gains), 3)],
            "answers_per_s_of_plain": round(statistics.median(sooner), 3),
            "tokens": sum(one.tokens for one in told),
            "texts_that_differ": sum(one.differ for one in told),
            "tokens_per_call": ratio(sum(t.tokens for t in told), sum(t.calls for t in told)) if speculated else 1.0,
            "drafted_per_call": ratio(sum(t.drafted for t in told), sum(t.calls for t in told)) if speculated else 0.0,
            "near_ties": sum(one.near_ties for one in told),
            "computed_again": ratio(sum(t.again for t in told), sum(t.tokens for t in told)),
            "written_plainly": ratio(sum(t.rested for t in told), sum(t.tokens for t in told)) if speculated else 1.0,
            "rounding": max(one.rounding for one in told) if speculated else None,
        }
    return found


def bundles_of(paths: Sequence[Path], sets: dict[str, Pictures], rounds: int, count: int, threads: int) -> list[Any]:
    """Every bundle on every set of pictures."""
    found = []
    for path in paths:
        for name, pictures in sets.items():
            with tempfile.TemporaryDirectory() as folder:
                texts = thoughts(path, pictures.training, pictures.labels, threads)
                places = {False: path, True: with_phrases(path, Path(folder), texts)}
                warm, done = pictures.training[0], []
                for number in range(rounds):
                    chosen = random.Random(number).sample(pictures.measured, min(count, len(pictures.measured)))
                    done.append(one_round(places, chosen, pictures.labels, threads, warm=warm, turn=number))
            entry = {"bundle": path.name, "pictures": name, "texts": rounds * len(chosen), "phrases": len(texts)}
            found.append({**entry, "variants": summary(done)})
    return found


# 3. Rows


def rows_of(bundle: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a call by its tokens: medians over rounds, sizes in turns."""
    from fgr_edge import Recognizer

    recognizer = Recognizer(bundle, threads=threads)
    decoder, sizes = recognizer.model.decoder, (1, *ROWS)
    ids = np.random.default_rng(0).integers(0, decoder.spec.vocab, CONTEXT + max(sizes))
    embeds = recognizer.model.embedding.gather(ids)
    positions = np.tile(np.arange(CONTEXT), (3, 1))
    decoder.prefill(embeds[:CONTEXT], positions, max_new_tokens=max(sizes))
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size in turned(list(sizes), number):
            for _ in range(CALLS):
                start = time.perf_counter()
                decoder.check(embeds[CONTEXT : CONTEXT + size]).after(size - 1).full()
                times[size].append((time.perf_counter() - start) * 1e3)
                decoder.rewind(CONTEXT)
    calls = {size: statistics.median(found[CALLS:]) for size, found in times.items()}
    of_one = {str(size): ratio(ms, calls[1]) for size, ms in calls.items()}
    return {"bundle": bundle.name, "ms": {str(size): round(ms, 3) for size, ms in calls.items()}, "of_one": of_one}


# 4. Report


def print_tables(document: dict[str, Any]) -> None:
    for head, rows in (
        (TEXT_HEAD, text_rows(document)),
        (BUNDLE_HEAD, bundle_rows(document)),
        (ROWS_HEAD, cost_rows(document)),
    ):
        if rows:
            print(table(head, rows), end="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="records in sharegpt form")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for the texts")
    parser.add_argument("--earlier", type=int, default=304)
    parser.add_argument("--measured", type=int, default=100)
    parser.add_argument("--bundle", type=Path, nargs="*", default=[])
    parser.add_argument("--drawings", action=argparse.BooleanOptionalAction, default=True, help="ask about drawn birds")
    parser.add_argument("--photographs", type=Path, help="labelled list (see fgr_edge.data.labelled)")
    parser.add_argument("--training", type=Path, help="another, which the model was trained on")
    parser.add_argument("--phrases", type=int, default=1000, help="thoughts that are stored, at most")
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help="bundles whose calls are timed by their size")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    texts = None
    if given.texts is not None:
        texts = texts_of(given.texts, given.tokenizer, given.earlier, given.measured)
    sets: dict[str, Pictures] = {}
    if given.bundle and given.drawings:
        sets["aviary"] = drawings(4 * given.pictures, given.phrases)
    if given.bundle and given.photographs is not None:
        sets["photographs"] = photographs(given.photographs, given.training, given.phrases)
    document = {
        "benchmark": "speculation",
        "machine": describe_machine(),
        "settings": {name: getattr(given, name) for name in ("rounds", "pictures", "phrases", "threads")},
        "texts": texts,
        "rows": [rows_of(path, given.rounds, given.threads) for path in given.rows],
        "bundles": bundles_of(given.bundle, sets, given.rounds, given.pictures, given.threads),
    }
    print_tables(document)
    publish(document, given.json)


if __name__ == "__main__":
    main()
