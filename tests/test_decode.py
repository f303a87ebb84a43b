from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cf_agents import decode
from cf_agents.config import DecodeParams, T3Config
from cf_agents.coverage import Coverage
from cf_agents.decode import Decoder, Decoding
from cf_agents.engines.base import Conditioning, Engine, Prefix, Row, Scored
from cf_agents.errors import ConfigError, EngineFull
from cf_agents.step_batch import random_numbers
from cf_agents.unmask import sample, schedule
from tests.small import ALIGNED, prefix, small_engine

GOLDEN = np.load(Path(__file__).parent / "goldens" / "t3.npz")
SETTINGS = json.loads(str(GOLDEN["settings"]))


class CheckedEngine:
    """Holds every logit that passes against the golden's."""

    def __init__(self, inner: Engine, name: str) -> None:
        self.inner, self.name = inner, name
        self.step = 0
        self.worst = 0.0

    @property
    def config(self) -> T3Config:
        return self.inner.config

    @property
    def rows_free(self) -> int:
        return self.inner.rows_free

    def open(self, prefixes: Sequence[Prefix]) -> list[Row]:
        return self.inner.open(prefixes)

    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        self.inner.commit(rows, blocks)

    def close(self, row: Row) -> None:
        self.inner.close(row)

    def prior(self, block_size: int) -> torch.Tensor:
        return self.inner.prior(block_size)

    def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
        before = GOLDEN[f"{self.name}/before"][self.step].astype(np.int64)
        assert tokens[0].tolist() == before[before >= 0].tolist()
        logits = self.inner.score(rows, tokens).logits
        for row, key in zip(logits, ("logits_c", "logits_u"), strict=False):
            found = torch.cat([row[:, :: int(GOLDEN["stride"])], row.logsumexp(-1, keepdim=True)], -1)
            wanted = torch.from_numpy(GOLDEN[f"{self.name}/{key}"][self.step][: found.shape[0]])
            self.worst = max(self.worst, float((found - wanted).abs().max()))
        self.step += 1
        return Scored(logits)


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_decisions_and_tokens_are_the_published_packages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SETTINGS[name]
    golden = {key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(name + "/")}
    engine = CheckedEngine(small_engine(), name)

    def sample(log_probs: torch.Tensor, temperature: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        before = golden["before"][engine.step - 1]
        ends = before.tolist().index(engine.config.stop_speech) if engine.config.stop_speech in before else len(before)
        masked = np.flatnonzero(before[:ends] == engine.config.mask_id)
        sampled = torch.from_numpy(golden["sampled"][engine.step - 1].astype(np.int64))
        return sampled[masked] if len(masked) == len(log_probs) else sampled[: len(log_probs)]

    def random(keys: torch.Tensor, steps: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        gumbel = torch.zeros(1, steps, width)
        recorded = torch.from_numpy(golden["noise"][engine.step : engine.step + steps, :width].astype(np.float32))
        gumbel[0, : len(recorded)] = recorded
        return torch.zeros(1, steps, width), gumbel

    monkeypatch.setattr(decode, "sample", sample)
    monkeypatch.setattr(decode, "random_numbers", random)
    params = DecodeParams(
        steps=setting["num_steps"],
        temperature=setting["temperature"],
        early=setting["time_shift_tau"],
        guidance=setting["cfg_scale"],
        position_noise=0.0 if name == "greedy" else 1.0,
        prior="marginal" if name == "marginal" else "causal",
        block_size=setting["block"],
        max_tokens=setting["length"],
    )
    exaggeration = round(0.3 + 0.1 * sorted(SETTINGS).index(name), 6)
    speaker = Conditioning(golden["speaker"], golden["prompt"].astype(np.int64), exaggeration)
    decoder = Decoder(engine)
    decoding = decoder.open(Prefix(speaker, tuple(golden["text"].tolist())), params, seed=0)
    tokens: list[int] = []
    while not decoding.finished:
        step = engine.step
        (block,) = decoder.step([decoding])
        after = golden["after"][step]
        if block is None:
            assert decoding.open_tokens == after[after >= 0].tolist()
        else:
            tokens += after[after >= 0].tolist()
    assert engine.step == len(golden["step"])
    assert tokens == golden["final"].tolist()
    assert engine.worst < 1e-4
    if "prior" in golden:
        # relative: one digit of float32 at the likeliest id is more than all of the rest
        assert float((engine.prior(setting["block"]) / torch.from_numpy(golden["prior"]) - 1).abs().max()) < 1e-4


Job = tuple[Prefix, DecodeParams, int] | tuple[Prefix, DecodeParams, int, tuple[tuple[int, int], ...]]
"""The arguments of `Decoder.open`."""


def run(decoder: Decoder, jobs: Sequence[Job], starts: Sequence[int]) -> list[list[int]]:
    """Decode jobs together, job n joining after `starts[n]` steps."""
    heard: list[list[int]] = [[] for _ in jobs]
    live: dict[int, Decoding] = {}
    clock = 0
    while len(live) < len(jobs) or not all(decoding.finished for decoding in live.values()):
        for n, start in enumerate(starts):
            if start <= clock and n not in live:
                live[n] = decoder.open(*jobs[n])
        running = [n for n, decoding in live.items() if not decoding.finished]
        for n, block in zip(running, decoder.step([live[n] for n in running]), strict=True):
            heard[n] += block.tokens if block else []
            if live[n].finished:
                decoder.close(live[n])
        clock += 1
    return heard


RAGGED = [
    (prefix(20, 1, voice=1), DecodeParams(max_tokens=70), 1),
    (prefix(60, 2, voice=2), DecodeParams(max_tokens=50, steps=8, early=0.5, temperature=0.2), 2),
    (prefix(35, 3, voice=1), DecodeParams(max_tokens=40, guidance=0.0, early=1.0, position_noise=0.0), 3),
    (prefix(11, 4, voice=3), DecodeParams(max_tokens=64, block_size=32, prior="marginal", temperature=0.0), 4),
]


@pytest.mark.parametrize("starts", [(0, 0, 0, 0), (0, 3, 11, 17)])
def test_a_row_in_a_ragged_batch_gets_the_tokens_it_gets_alone(starts: tuple[int, ...]) -> None:
    engine = small_engine()
    decoder = Decoder(engine)
    together = run(decoder, RAGGED, starts)
    assert [len(tokens) for tokens in together] == [70, 50, 40, 64]
    for job, tokens in zip(RAGGED, together, strict=True):
        assert run(decoder, [job], [0]) == [tokens]
    assert engine.rows_free == 8


def test_the_seed_decides_and_nothing_else() -> None:
    decoder = Decoder(small_engine())
    job = (prefix(20), DecodeParams(max_tokens=32), 7)
    first, again, other = (run(decoder, [(*job[:2], seed)], [0]) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_decoding_is_not_mistaken_for_one_that_is_gone() -> None:
    """A new object may lie where a dead one lay in memory, which happens here to every other one."""
    engine = small_engine()
    text, params = prefix(20), DecodeParams(max_tokens=16, steps=1)

    def first_block(decoder: Decoder, seed: int) -> list[int] | None:
        decoding = decoder.open(text, params, seed)
        block = decoder.step([decoding])[0] if seed % 2 == 0 else None
        decoder.close(decoding)
        return None if block is None else block.tokens

    decoder = Decoder(engine)
    blocks = [first_block(decoder, seed) for seed in range(8)]
    assert blocks == [first_block(Decoder(engine), seed) for seed in range(8)]


def test_positions_before_a_stop_are_finished_and_what_follows_is_dropped() -> None:
    engine = small_engine()
    stop, mask = engine.config.stop_speech, engine.config.mask_id

    class Stops(CheckedEngine):
        """Wants the stop token at place 5 of the second block, above everything, from its first step."""

        def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
            logits = self.inner.score(rows, tokens).logits
            if rows[0].length > first_length + 15:
                logits[:, 5, stop] = 60.0
            return Scored(logits)

    decoder = Decoder(Stops(engine, ""))
    decoding = decoder.open(prefix(20), DecodeParams(max_tokens=64), seed=3)
    first_length = decoding.rows[0].length
    blocks: list[list[int]] = []
    opened: list[list[int]] = []
    while not decoding.finished:
        (block,) = decoder.step([decoding])
        opened.append(list(decoding.open_tokens))
        if block is not None:
            blocks.append(block.tokens)
    assert [len(block) for block in blocks] == [16, 5]
    assert mask not in opened[-1][:6]
    assert mask in opened[-1][6:], "what lies behind the stop is not worth a step"
    assert decoding.steps < 20


def test_a_block_comes_with_the_places_that_its_last_step_saw() -> None:
    class Watched(CheckedEngine):
        """Remembers the places of its first row; wants something that is no codec token at 3, and the stop at 9 of block 2."""

        def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
            scored = self.inner.score(rows, tokens)
            logits, places = scored.logits, scored.places
            logits[::2, 3, stop + 1] = 60.0
            if rows[0].length > first_length + 15:
                logits[::2, 9, stop] = 60.0
            assert places is not None
            seen.append(places[0].tolist())
            return Scored(logits, places)

    seen: list[list[float]] = []
    engine = Watched(small_engine(config=ALIGNED), "")
    stop = engine.config.stop_speech
    decoder = Decoder(engine)
    other = decoder.open(prefix(30, 2), DecodeParams(max_tokens=100, steps=50), seed=4)
    decoding = decoder.open(prefix(20), DecodeParams(max_tokens=64), seed=3)
    first_length = decoding.rows[0].length
    blocks = 0
    while not decoding.finished:
        block, _ = decoder.step([decoding, other])
        if block is not None:
            assert block.places is not None
            heard = [0, 1, 2, *range(4, 9 if blocks else 16)]
            assert len(block.tokens) == len(heard)
            assert block.places == pytest.approx([seen[-1][n] for n in heard], abs=0.003)
            blocks += 1
    assert blocks == 2


def test_places_are_made_by_the_steps_that_end_a_block_and_no_others() -> None:
    class Counting(CheckedEngine):
        def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
            scored = self.inner.score(rows, tokens)

            def places() -> torch.Tensor:
                assert scored.places is not None
                made.append(len(ended))
                return scored.places

            return Scored(scored.logits, places)

    made: list[int] = []
    ended: list[int] = []
    decoder = Decoder(Counting(small_engine(config=ALIGNED), ""))
    decoding = decoder.open(prefix(20), DecodeParams(max_tokens=48, steps=6, early=0.0), seed=3)
    while not decoding.finished:
        (block,) = decoder.step([decoding])
        if block is not None:
            ended.append(len(block.tokens))
            assert block.places is not None
    assert made == list(range(len(ended)))
    assert decoding.steps > len(ended)


WORDS = ((1, 4), (5, 8), (9, 12), (15, 18))
"""Of a prefix's 20 text ids."""
SAID, THIN = "said", "thin"
TAKES = {
    SAID: [2.0] * 4 + [6.0] * 4 + [10.0] * 4 + [14.0] * 4,
    THIN: [2.0] * 7 + [6.0] + [10.0] * 4 + [14.0] * 4,
    "one": [2.0] * 8 + [10.0] * 4 + [14.0] * 4,
    "two": [2.0] * 8 + [14.0] * 8,
    "last": [19.0] * 16,
}
"""Places of a block's tokens by what they leave out. One word of the thin one has but a token on it; the last word is passed by
the block that leaves it out alone."""
K = 4


class Told(CheckedEngine):
    """Is told the places of its first row: `told` of `TAKES`, for each take of K steps.

    `seen` are the first row's tokens as each step began.
    """

    def __init__(self, told: Sequence[str]) -> None:
        super().__init__(small_engine(config=ALIGNED), "")
        self.told = told
        self.seen: list[list[int]] = []
        self.committed: list[list[int]] = []

    def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
        scored = self.inner.score(rows, tokens)
        assert scored.places is not None
        places = scored.places.clone()
        take = len(self.seen) // K
        places[0, :16] = torch.tensor(TAKES[self.told[take]] if take < len(self.told) else [16.0] * 16)
        self.seen.append(tokens[0].tolist())
        logits = scored.logits
        at, ids = torch.arange(logits.shape[1]), torch.arange(logits.shape[2])
        logits[0, at[:, None] % 7 != ids % 7] = -60.0  # never a pause
        return Scored(logits, places)

    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        self.committed += [list(block) for block in blocks[:1]]
        super().commit(rows, blocks)

    def is_of(self, take: int, block: Sequence[int]) -> bool:
        """A block has all that the take's last step began with."""
        before = self.seen[take * K + K - 1]
        return all(was in (now, self.config.mask_id) for was, now in zip(before, block, strict=True))


GREEDY = DecodeParams(steps=K, temperature=0.0, early=0.0, position_noise=0.0, guidance=0.0, max_tokens=32, retakes=2)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([SAID], 0),
        ([THIN], 0),
        (["one", SAID], 1),
        (["two", "one", SAID], 2),
        (["one", THIN, SAID], 2),
        (["two", "one", "one"], 1),
        (["one", "one", "one"], 0),
        (["one", "two", THIN], 2),
        (["one", "two", "two"], 0),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_block_that_leaves_words_out_is_denoised_again_and_the_best_take_kept(
    told: list[str], kept: int, beside: bool
) -> None:
    engine = Told(told)
    decoder = Decoder(engine)
    decoding = decoder.open(prefix(20), GREEDY, 3, WORDS)
    others = [decoder.open(prefix(30, 2), DecodeParams(max_tokens=100, steps=50), 4)] if beside else []
    steps = 0
    block = None
    while block is None:
        block = decoder.step([decoding, *others])[0]
        steps += 1
    assert steps == decoding.steps == K * len(told)
    assert block.places == TAKES[told[kept]]
    assert [engine.is_of(take, engine.committed[0]) for take in range(len(told))] == [take == kept for take in range(len(told))]
    assert decoding.tokens == 16
    while not decoding.finished:
        decoder.step([decoding, *others])
    assert decoding.steps == K * (len(told) + 1), "the words are told once"


def test_every_block_has_all_of_its_takes() -> None:
    decoder = Decoder(Told(["one"] * 3 + ["last"] * 3))
    decoding = decoder.open(prefix(20), GREEDY, 3, WORDS)
    while not decoding.finished:
        decoder.step([decoding])
    assert decoding.steps == 6 * K


def test_nothing_is_denoised_again_without_words_or_without_retakes() -> None:
    for params, words in ((GREEDY, ()), (replace(GREEDY, retakes=0), WORDS)):
        decoder = Decoder(Told(["two"] * 3))
        decoding = decoder.open(prefix(20), params, 3, words)
        while not decoding.finished:
            decoder.step([decoding])
        assert decoding.steps == 2 * K


@pytest.mark.parametrize("retakes", [-1, 101])
def test_retakes_are_bounded(retakes: int) -> None:
    with pytest.raises(ConfigError, match="retakes"):
        DecodeParams(retakes=retakes)


def test_what_counts_as_said_is_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(Coverage):
        def keep(self, tokens: Sequence[int], places: Sequence[float]) -> None:
            kept.append((tokens, places))
            super().keep(tokens, places)

    kept: list[tuple[Sequence[int], Sequence[float]]] = []
    monkeypatch.setattr(decode, "Coverage", Kept)
    engine = Told(["two", "one", "two"])
    decoder = Decoder(engine)
    decoding = decoder.open(prefix(20), GREEDY, 3, WORDS)
    while not decoding.block:
        decoder.step([decoding])
    assert kept == [(engine.committed[0], TAKES["one"])]


def takes(decoder: Decoder, jobs: Sequence[Job]) -> list[int]:
    """How many steps more each job takes, alone, because blocks of it are denoised again."""

    def steps(job: Job, retakes: int) -> int:
        prefix, params, *rest = job
        decoding = decoder.open(prefix, replace(params, retakes=retakes), *rest)
        while not decoding.finished:
            decoder.step([decoding])
        decoder.close(decoding)
        return decoding.steps

    return [steps(job, 2) - steps(job, 0) for job in jobs]


def test_what_is_denoised_again_does_not_hang_on_neighbours() -> None:
    every = tuple((n, n + 1) for n in range(1, 7))
    jobs = [(prefix(8 + n, n), replace(GREEDY, temperature=0.3 * n), n, every) for n in range(4)]
    decoder = Decoder(small_engine(config=ALIGNED))
    again = takes(decoder, jobs)
    assert all(steps % K == 0 for steps in again)
    assert sum(again) > 0
    alone = [run(decoder, [job], [0])[0] for job in jobs]
    assert run(decoder, jobs, [0, 1, 3, 9]) == alone


def test_an_end_before_the_text_is_said_is_denoised_again() -> None:
    class Ends(Told):
        """The first take is over at token 5, all others at 15."""

        def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
            scored = super().score(rows, tokens)
            logits = scored.logits
            logits[0, 15 if decoding.takes else 5, self.config.stop_speech] = 60.0
            return Scored(logits, scored.places)

    decoder = Decoder(Ends([SAID, SAID]))
    decoding = decoder.open(prefix(20), GREEDY, 3, WORDS)
    block = None
    while block is None:
        (block,) = decoder.step([decoding])
    assert decoding.finished
    assert block.places == TAKES[SAID][:15]


def test_who_decodes_early_does_so_beside_who_does_not() -> None:
    def steps(beside: bool) -> int:
        decoder = Decoder(small_engine())
        early = decoder.open(prefix(20), DecodeParams(max_tokens=16, steps=20, early=2.0), seed=3)
        others = [decoder.open(prefix(9), DecodeParams(max_tokens=16, steps=40, early=0.0), seed=4)] if beside else []
        while not early.finished:
            decoder.step([early, *others])
        return early.steps

    assert steps(beside=True) == steps(beside=False) < 20


def test_a_full_pool_refuses_and_is_as_it_was() -> None:
    engine = small_engine(max_rows=3)
    decoder = Decoder(engine)
    kept = decoder.open(prefix(20), DecodeParams(), 0)
    with pytest.raises(EngineFull, match="max_streams"):
        decoder.open(prefix(21), DecodeParams(), 0)
    assert engine.rows_free == 1
    decoder.close(kept)
    decoder.close(kept)
    assert engine.rows_free == 3


def test_schedule_opens_everything_once() -> None:
    assert schedule(16, 10, 0.5) == (1, 1, 1, 1, 1, 2, 2, 2, 2, 3)
    for size in range(1, 40):
        for steps in (1, 2, 8, 10, 50):
            counts = schedule(size, steps, 0.5)
            assert sum(counts) == size
            assert min(counts) >= 0


def test_sampling_follows_the_distribution() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniform = torch.linspace(0.0005, 0.9995, 1000)
    log_probs = probs.log().expand(1000, 4)
    drawn = sample(log_probs, torch.ones(1000), uniform)
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([100, 0, 600, 300], abs=1)
    cold = sample(log_probs, torch.full((1000,), 0.5), uniform)
    assert torch.bincount(cold, minlength=4)[2] == pytest.approx(1000 * 0.36 / 0.46, abs=1)
    assert (sample(log_probs, torch.zeros(1000), uniform) == 2).all()


def test_random_numbers_are_uniform_gumbel_and_apart() -> None:
    keys = torch.arange(400)
    uniform, gumbel = random_numbers(keys, 2, 16)
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)
    assert gumbel.mean() == pytest.approx(0.5772, abs=0.05)
    assert gumbel.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([uniform[:, 0].flatten(), uniform[:, 1].flatten()]))[0, 1])) < 0.04
