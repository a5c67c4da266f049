"""Sampling draws from the same distribution as transformers' logits processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import ConfigError, EngineError
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

VOCAB = 200


def random_logits(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCAB) * 4).astype(np.float32)


def ours(config: SamplingConfig, logits: np.ndarray, seen: list[int]) -> np.ndarray:
    """Probabilities [V] that the sampler draws with."""
    sampler = Sampler(config, seen)
    if config.repetition_penalty != 1.0:
        logits = sampler._penalized(logits)
    probabilities, tokens = sampler.distribution(logits)
    full = np.zeros(VOCAB)
    full[tokens] = probabilities
    return full


def of_transformers(config: SamplingConfig, logits: np.ndarray, seen: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    steps: list[Any] = [process.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)]
    steps.append(process.TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        steps.append(process.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(process.TopPLogitsWarper(config.top_p))
    scores = torch.from_numpy(logits)[None].double()
    for step in steps:
        scores = step(torch.tensor([seen]), scores)
    result: np.ndarray = scores.softmax(-1)[0].numpy()
    return result


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 0.001])
@pytest.mark.parametrize("top_k", [0, 1, 7, VOCAB, 10 * VOCAB])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
def test_distributions_equal_those_of_transformers(
    temperature: float, top_k: int, top_p: float, repetition_penalty: float
) -> None:
    config = SamplingConfig(
        do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty
    )
    seen = [3, 5, 5, 199, 0]
    for seed in range(5):
        logits = random_logits(seed)
        np.testing.assert_allclose(
            ours(config, logits, seen), of_transformers(config, logits, seen), rtol=1e-5, atol=1e-9
        )


def test_draws_follow_the_distribution() -> None:
    config = SamplingConfig(do_sample=True, top_k=5, seed=0)
    logits = random_logits(1) * np.float32(0.25)
    sampler = Sampler(config)
    counts = np.bincount([sampler.next(logits) for _ in range(4000)], minlength=VOCAB) / 4000
    np.testing.assert_allclose(counts, ours(config, logits, []), atol=0.03)


def test_a_seed_makes_draws_repeat_and_another_seed_changes_them() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingConfig(do_sample=True, seed=seed))
        return [sampler.next(random_logits(i) * np.float32(0.25)) for i in range(30)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_greedy_takes_the_likeliest_and_leaves_the_logits_alone() -> None:
    logits = random_logits(2)
    before = logits.copy()
    sampler = Sampler(SamplingConfig(repetition_penalty=1.5), [int(logits.argmax())])
    assert Sampler(SamplingConfig()).next(logits) == int(logits.argmax())
    assert sampler.next(logits) != int(logits.argmax())
    np.testing.assert_array_equal(logits, before)


def test_the_repetition_penalty_counts_what_was_generated() -> None:
    logits = np.array([1.0, 0.9, 0.8, -1.0], np.float32)
    sampler = Sampler(SamplingConfig(repetition_penalty=2.0))
    assert [sampler.next(logits) for _ in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("temperature", float("nan")),
        ("top_p", float("nan")),
    ],
)
def test_options_without_a_meaning_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} is .*expected"):
        SamplingConfig(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config", [SamplingConfig(), SamplingConfig(do_sample=True), SamplingConfig(repetition_penalty=1.1)]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(config: SamplingConfig, bad: float) -> None:
    logits = np.arange(6, dtype=np.float32)
    logits[2] = bad
    with pytest.raises(EngineError, match="logits are not finite numbers"):
        Sampler(config).next(logits)
    logits[2] = -np.inf  # of a token that may not be written
    Sampler(config).next(logits)
