"""This runtime beside other engines: same weights, prompt, picture, labels and threads, each in its own environment.

In: a checkpoint. Out: a table, a chart, then one line of JSON. Every contender (`peers/contenders.py`) is a process
that lives through the whole run; in each round each of them does everything once, in an order that turns with the
round, after a round that is thrown away. Read bandwidth is measured in every round. Before a time is believed, the
contender's logits after the prompt are compared with transformers' in float32 on the same weights.

decode       tokens/s after the first, batch 1, greedy: embedding, decoder, logits of one position, choice, text.
first token  of a text prompt of `--prompt-tokens` tokens.
picture      from the path of a picture to the first token, for those that run the whole model.
labels       the probabilities of `--labels` names after the same prompt, in each engine's cheapest way; beside it with
             the prompt. For fgr-edge: all of them, and (best) the likeliest with a bound on the rest.
memory       the process's peak of resident memory, mapped files counted, after the first decode (text), and after the
             first picture. With `--measures decode` everybody opens the decoder alone.
error        norm of the difference of the logits to float32's, both centred, over the norm of float32's, after the
             prompt and after the picture; the document also has that of float32 itself after the prompt reversed: what
             another computation looks like.

With `--prompts` the checkpoint is one of `peers/fitted_prompts.py`, as sure of names as a trained model, and rounds
take its prompts in turns. That is for `--measures labels`: peers score all labels, as before; fgr-edge does that too,
and gives the answer of `recognize` (best): the likeliest label, and every other that it may not leave out, with the
probabilities that all scores have, and a bound of 1 % on the rest together. Each round compares the two.

`--prepare` makes all models and stops. A contender that is absent, fails or is another model is listed with the reason.
`--reference` names another one than transformers in float32 to compare logits with, where that does not fit.

    python -m benchmarks.compare_peers --checkpoint DIR [--environments out/peers] [--models out/peers/models]
                                       [--only PATTERN...] [--rounds 6] [--new-tokens 64] [--prompt-tokens 300]
                                       [--labels 81] [--threads 2] [--measures decode,picture,labels]
                                       [--prompts FILE] [--most-seconds S] [--reference NAME]
                                       [--prepare] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.label_names import names
from benchmarks.machine import describe_machine
from benchmarks.peers.bars import bars
from benchmarks.peers.chart import draw
from benchmarks.peers.contenders import CONTENDERS, Contender, Places, conversions, start_command
from benchmarks.peers.entrant import ANSWER_S, MOST_ERROR, Entrant, ask, logits_error, summarize, warm_up
from benchmarks.peers.process import ROOT, PeerError, PeerProcess
from benchmarks.peers.task import Task, make_task
from benchmarks.picture import write_picture
from benchmarks.report import cell, publish, table

OPEN_S, CONVERT_S = 300.0, 3600.0
MEASURES = ("decode", "picture", "labels")
SETTLE_S = 0.25  # a peer's worker threads spin for a while after its last call
BANDWIDTH_S = 0.3


def prepare(contenders: Sequence[Contender], places: Places, measures: Collection[str]) -> dict[str, str]:
    """Make the models that are not there; the reasons of those that could not be made, by name.

    What only pictures or labels need is left out where those are not measured.
    """
    failed: dict[str, str] = {}
    for contender in contenders:
        try:
            if contender.ours:
                from benchmarks.peers.bundles import write_scheme_bundle

                write_scheme_bundle(places.checkpoint, contender.weights, places.model(contender))
            idle = {places.whole(contender)} if "picture" not in measures else set()
            idle |= {places.every(contender)} if "labels" not in measures else set()
            left = [(path, command) for path, command in conversions(contender, places) if path not in idle]
            if all(path.exists() for path, _ in left if path != places.text):
                continue
            for path, command in left:
                if not path.exists():
                    convert(command, path, places.models / "logs" / f"convert-{path.name}.log")
        except (OSError, subprocess.SubprocessError) as error:
            failed[contender.name] = f"its model could not be made: {error}"
            print(f"{contender.name}: {failed[contender.name]}", flush=True)
    return failed


def convert(command: Sequence[str], output: Path, log: Path) -> None:
    """Run one conversion, its words in a file; what a failed one left behind is removed.

    Raises:
        subprocess.SubprocessError: it failed, or took longer than an hour.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{log.stem} ...", flush=True)
    try:
        with log.open("w", encoding="utf-8") as file:
            subprocess.run(command, stdout=file, stderr=file, cwd=ROOT, check=True, timeout=CONVERT_S)
    except BaseException:  # an interrupt, too: a half-written model would pass for a whole one
        shutil.rmtree(output, ignore_errors=True) if output.is_dir() else output.unlink(missing_ok=True)
        raise


def enter(
    contender: Contender, places: Places, threads: int, names_file: Path, measures: Collection[str] = MEASURES
) -> Entrant:
    """Start a contender's process. Where texts alone are measured, none has a vision tower open."""
    entrant = Entrant(contender)
    if not places.python(contender.peer).exists():
        entrant.leave(f"no environment; run benchmarks/peers/setup_{contender.peer}.sh")
    elif not places.model(contender).exists():
        entrant.leave("no model; run with --prepare")
    else:
        log = places.models / "logs" / f"{contender.name}.log"
        try:
            command = start_command(contender, places, threads, names_file, text=set(measures) == {"decode"})
            entrant.process = PeerProcess(command, log, OPEN_S)
        except PeerError as error:
            entrant.leave(str(error))
    return entrant


def reference_of(
    contender: Contender, places: Places, task: Task, threads: int, names_file: Path, scratch: Path
) -> dict[str, Any]:
    """Logits, greedy tokens and label scores of the one that all are compared with, kept beside the models.

    Raises:
        PeerError: it does not run: nothing can be checked.
    """
    kept = places.models / f"reference-{contender.peer}-{contender.weights}-{task.digest}.npz"
    if not kept.exists():
        process = PeerProcess(
            start_command(contender, places, threads, names_file), places.models / "logs" / "reference.log", OPEN_S
        )
        process.ask({"do": "logits", "ids": task.ids, "to": str(scratch)}, ANSWER_S)
        logits = np.load(scratch)
        decoded, scored = process.ask(task.decode, ANSWER_S), process.ask(task.labels[0], ANSWER_S)
        process.ask({"do": "logits", "ids": task.ids[::-1], "to": str(scratch)}, ANSWER_S)
        backwards = np.load(scratch)
        process.ask(task.picture | {"do": "picture_logits", "to": str(scratch)}, ANSWER_S)
        process.close()
        kept_arrays = {"logits": logits, "reversed": backwards, "picture": np.load(scratch)}
        kept_arrays["log_probs"] = np.array(scored["log_probs"])
        np.savez(kept, tokens=decoded["tokens"], **kept_arrays)
    found = np.load(kept)
    return {key: found[key] for key in found.files}


def requests_of(task: Task, measures: Collection[str], number: int) -> list[dict[str, Any]]:
    """What everybody is asked in one round."""
    requests = (task.decode, task.picture, task.labels[number % len(task.labels)])
    return [request for request in requests if request["do"] in measures]


def run_rounds(
    entrants: Sequence[Entrant], task: Task, options: argparse.Namespace, bandwidth: ReadBandwidth
) -> list[float]:
    """Fill in what everybody does; GB/s of each round."""
    rates: list[float] = []
    start = time.monotonic()
    for number in range(options.rounds):
        if time.monotonic() - start > options.most_seconds:
            print(f"{number} rounds of {options.rounds}: time is up", flush=True)
            break
        requests = requests_of(task, options.measures, number)
        turn = number % len(entrants)
        for entrant in (*entrants[turn:], *entrants[:turn]):
            for request in requests:
                time.sleep(SETTLE_S)
                answered = ask(entrant, request)
                if answered is not None:
                    entrant.done.setdefault(request["do"], []).append(answered)
        time.sleep(SETTLE_S)
        rates.append(bandwidth.gbps(BANDWIDTH_S))
        print(f"round {number + 1} of {options.rounds}: {rates[-1]:.1f} GB/s", flush=True)
    return rates


def show(document: dict[str, Any]) -> None:
    """Bandwidth, the table, the bars."""
    bandwidth = document["read_bandwidth_gbps"]
    print(f"read bandwidth {bandwidth['p50']:.1f} GB/s, {bandwidth['min']:.1f} to {bandwidth['max']:.1f}")
    head = ("p50", "decode tokens/s", "first token ms", "picture ms", "labels ms", "best ms", "peak MiB", "error")
    rows = [
        (
            name,
            cell(row["decode_tokens_per_s"]),
            cell(row["first_token_ms"]["p50"]),
            cell(row["picture_ms"]["p50"]),
            cell(row["labels_ms"]["p50"]),
            cell(row["best_label_ms"]["p50"]),
            cell(None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20, 0),
            cell(row["check"].get("error"), 4),
        )
        for name, row in document["contenders"].items()
        if row["reason"] is None
    ]
    print(table(head, rows))
    for name, row in document["contenders"].items():
        for what, why in ({"": row["reason"]} if row["reason"] else row["missing"]).items():
            print(f"{name}{what and ', ' + what}: {why}")
    for bar in document["bars"]:
        met = "met" if bar["met"] else "MISSED"
        print(f"{bar['measure']}: {bar['ours']} is {bar['ratio']}x of {bar['peer']}, {bar['wanted']} wanted: {met}")


def compare(
    entrants: Sequence[Entrant], task: Task, reference: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The whole run, from processes that are open to the document."""
    machine = describe_machine()
    bandwidth = ReadBandwidth(options.threads)
    here = [entrant for entrant in entrants if entrant.reason is None]
    rates = run_rounds(here, task, options, bandwidth)
    rows = {entrant.contender.name: summarize(entrant, options.new_tokens) for entrant in entrants}
    return {
        "benchmark": "peers",
        "checkpoint": options.checkpoint.name,
        "prompt_tokens": len(task.ids),
        "new_tokens": options.new_tokens,
        "labels": options.labels,
        "picture": {"width_px": 640, "height_px": 480},
        "fitted_prompts": len(task.labels) if options.prompts is not None else None,
        "rounds": len(rates),
        "threads": options.threads,
        "read_bandwidth_gbps": {
            "p50": round(statistics.median(rates), 2),
            "min": round(min(rates), 2),
            "max": round(max(rates), 2),
            "rounds": [round(rate, 2) for rate in rates],
        },
        "reference": options.reference,
        "most_error": {str(bits): most for bits, most in MOST_ERROR.items()},
        "error_of_the_prompt_reversed": logits_error(reference["reversed"], reference["logits"]),
        "contenders": rows,
        "bars": bars(rows, fitted=options.prompts is not None),
        "machine": machine,
    }


def parse() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--environments", type=Path, default=Path("out/peers"))
    parser.add_argument("--models", type=Path, default=Path("out/peers/models"))
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names, as in a shell")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--reference", default=CONTENDERS[0].name, choices=[row.name for row in CONTENDERS])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=300)
    parser.add_argument("--prompts", type=Path, help="of fitted_prompts.py, instead: rounds take them in turns")
    parser.add_argument("--most-seconds", type=float, default=math.inf, help="no round starts after so many")
    parser.add_argument("--labels", type=int, default=81)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measures", default=",".join(MEASURES), help="of these, with commas between them")
    parser.add_argument("--prepare", action="store_true", help="make all models, measure nothing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.measures = options.measures.split(",")
    if options.rounds < 1 or options.new_tokens < 2:
        parser.error("--rounds must be at least 1 and --new-tokens at least 2")
    return options


def main() -> None:
    """The command line."""
    options = parse()
    places = Places(
        options.checkpoint.absolute(),
        (options.models / options.checkpoint.name).absolute(),
        options.environments.absolute(),
    )
    chosen = [row for row in CONTENDERS if any(fnmatch.fnmatch(row.name, pattern) for pattern in options.only)]
    failed = prepare(chosen, places, options.measures)
    if options.prepare:
        return
    picture = write_picture(places.models / "picture-640x480.jpg")
    labels = names(options.labels)
    names_file = places.models / f"labels-{options.labels}.txt"
    names_file.write_text("\n".join(labels) + "\n", encoding="utf-8")
    prompts = [] if options.prompts is None else json.loads(options.prompts.read_text(encoding="utf-8"))
    task = make_task(options.checkpoint, picture.absolute(), labels, options.prompt_tokens, options.new_tokens, prompts)
    scratch = places.models / "logits.npy"
    checked_by = next(row for row in CONTENDERS if row.name == options.reference)
    reference = reference_of(checked_by, places, task, options.threads, names_file, scratch)
    entrants = []
    try:
        for contender in chosen:
            entrants.append(entrant := enter(contender, places, options.threads, names_file, options.measures))
            if entrant.reason is None:
                warm_up(entrant, task, options.measures, reference, scratch)
            elif contender.name in failed:
                entrant.reason = failed[contender.name]
            print(f"{contender.name}: {entrant.reason or entrant.check}", flush=True)
        document = compare(entrants, task, reference, options)
    finally:
        for entrant in entrants:
            if entrant.process is not None:
                entrant.process.close()
    show(document)
    if options.plot is not None:
        draw(document, options.plot)
    publish(document, options.json)


if __name__ == "__main__":
    main()
