"""Block diffusion: the decoder, which runs utterances through denoising steps and from block to block.

Every block starts as D masks; `unmask` says how a step opens some of them. Everything works on [N, D] tensors with a step
counter per row, so rows may be anywhere in their blocks; a step waits for the device once, when it reads what was opened.

Knows nothing of text, audio, threads or caches.

Shapes: N utterances, D positions of the widest open block (-1 in `tokens` past a shorter one's end), V vocabulary, K steps,
P positions of all utterances that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from cf_agents.config import CODEC_VOCAB, DecodeParams
from cf_agents.coverage import NO_GAPS, Coverage, Gaps
from cf_agents.decoded import Decoded
from cf_agents.engines.base import Engine, Prefix, Row, Scored
from cf_agents.engines.paged_plan import rows_bucket
from cf_agents.models import noise
from cf_agents.step_batch import (
    ABSENT,
    Denoised,
    StepBatch,
    doubled,
    every_position,
    masked_positions,
    random_numbers,
)
from cf_agents.unmask import (
    before_stop,
    best,
    block_marginal,
    calibrate,
    combine,
    early_quantile,
    guide,
    quantile_count,
    rank,
    sample,
    schedule,
)

if TYPE_CHECKING:
    from cf_agents.decode_graphs import StepGraphs

_PLACE_UNITS = 256
"""Text places are read with the tokens, as whole numbers of 1 / 256."""
RETAKE_NOISE = 2.0
"""`position_noise` at least of a block that is denoised again: without any it would come out as before."""


@dataclass(frozen=True)
class Take:
    """A block as its last denoising step left it."""

    block: list[int]
    heard: list[int]
    """What is in front of the stop."""
    places: list[float] | None
    """Of `heard`."""
    gaps: Gaps


@dataclass(eq=False)
class Decoding:
    """The decoder's side of one utterance; owned by whoever opened it, ended by `Decoder.close`."""

    params: DecodeParams
    seed: int
    budget: int
    block_size: int
    rows: tuple[Row, ...]
    """The conditional row, and the null row if there is guidance."""
    open_tokens: list[int] = field(default_factory=list)
    coverage: Coverage | None = None
    """None where nobody looks for words left out."""
    block: int = 0
    step: int = 0
    """Step within the take."""
    takes: int = 0
    """How often the block was denoised to its end."""
    best: Take | None = None
    """The first of those whose words lack fewest tokens."""
    tokens: int = 0
    """Speech tokens of finished blocks."""
    steps: int = 0
    """Denoising steps so far, over all blocks."""
    finished: bool = False

    @property
    def knobs(self) -> DecodeParams:
        """Those of this take."""
        if not self.takes:
            return self.params
        return replace(self.params, position_noise=max(self.params.position_noise, RETAKE_NOISE))

    @property
    def key(self) -> int:
        """Of this take's random numbers."""
        return noise.key(self.seed, self.block, *([self.takes] if self.takes else []))


class Decoder:
    """Runs utterances' decodings over one engine. Not thread-safe: the thread that owns the engine owns this."""

    def __init__(self, engine: Engine, graphs: StepGraphs[Any] | None = None) -> None:
        """graphs: recordings of steps over the same engine."""
        self._engine = engine
        self._graphs = graphs
        self._cached: tuple[object, StepBatch, Tensor] | None = None

    @property
    def engine(self) -> Engine:
        return self._engine

    def open(self, prefix: Prefix, params: DecodeParams, seed: int, words: Sequence[tuple[int, int]] = ()) -> Decoding:
        """Start an utterance: one row, or two with guidance.

        words: [start, end) among the text ids of those that a block is denoised again for if it leaves one out.

        Raises `EngineFull` when the rows are not free, `TextError` when the prefix is too long; the pool is then as it was.
        """
        wanted = params.max_tokens or max(6 * len(prefix.text_ids), 300)
        prefix = replace(prefix, speech_tokens=wanted)
        rows = self._engine.open([prefix, prefix.null()] if params.guidance > 0 else [prefix])
        decoding = Decoding(
            params=params,
            seed=seed,
            budget=min(wanted, *(row.room for row in rows)),
            block_size=params.block_size or self._engine.config.block_size,
            rows=tuple(rows),
            coverage=Coverage(words) if words and params.retakes else None,
        )
        self._mask(decoding)
        return decoding

    def close(self, decoding: Decoding) -> None:
        """Give the rows back. Closing twice is fine."""
        for row in decoding.rows:
            self._engine.close(row)
        decoding.finished = True

    def record(self, params: DecodeParams, most: int) -> None:
        """Record the steps of up to `most` utterances with these knobs, so that none is recorded while somebody waits.

        Takes seconds. Does nothing without graphs.
        """
        if self._graphs is None:
            return
        size = params.block_size or self._engine.config.block_size
        guided = params.guidance > 0
        for count in sorted({rows_bucket(n) for n in range(1, most + 1)}):
            blank = [Decoding(params, 0, size, size, (), [self._engine.config.mask_id] * size) for _ in range(count)]
            batch, _ = self._batch(blank)
            rows = (None,) * (count * (1 + guided))
            everyone = tuple(range(count)) if guided else ()
            self._graphs.record(replace(batch, rows=rows, guided_at=everyone), self.denoise)

    @torch.inference_mode()
    def step(self, decodings: Sequence[Decoding]) -> list[Decoded | None]:
        """One denoising step of every utterance; for each, the block this step finished, or None.

        A finished block may be empty: its first token was the stop. `Decoding.finished` is then set.
        """
        assert not any(decoding.finished for decoding in decodings), "a finished decoding has no next step"
        identity = tuple((decoding, decoding.block, decoding.takes) for decoding in decodings)
        if self._cached is None or self._cached[0] != identity:
            self._cached = (identity, *self._batch(decodings))
        _, batch, step = self._cached
        seen: list[Scored] = []
        # Where the device is the host, what depends on data costs no wait.
        host = self._graphs is None and step.device.type == "cpu"
        if self._graphs is not None:
            made = self._graphs.step(batch, step, self.denoise)
        else:
            rows = cast("tuple[Row, ...]", batch.rows)  # only graphs pad

            def look(ids: Tensor) -> Scored:
                seen.append(self._engine.score(rows, ids))
                return seen[0]

            made = self.denoise(batch, step, look, on_host=host)
        step += 1
        parts = [made.tokens, made.masked.sum(dim=1, keepdim=True)]
        if made.places is not None:
            parts.append(_whole(made.places))
        # The step's one wait for the device.
        read = torch.cat(parts, dim=1).tolist()
        batch.tokens.copy_(made.tokens)
        width = made.tokens.shape[1]
        if host and not all(row[width] for row in read) and (places := seen[0].places) is not None:
            read = [row + more for row, more in zip(read, _whole(places[: len(read)]).tolist(), strict=True)]
        return [self._advance(decoding, row, width) for decoding, row in zip(decodings, read, strict=True)]

    def denoise(
        self, batch: StepBatch, step: Tensor, score_rows: Callable[[Tensor], Scored], *, on_host: bool = False
    ) -> Denoised:
        """Device work of a step, from steps [N] and what scores all rows.

        on_host: look at masked positions only, how many they are being read from the device, and leave places to whoever reads
        them. The outcome is the same.
        """
        count, width = batch.tokens.shape
        mask_id, stop_id = self._engine.config.mask_id, self._engine.config.stop_speech
        masked = (batch.tokens == mask_id) & before_stop(batch.tokens, stop_id)
        # A marginal prior is over all positions of a block.
        asked = masked_positions(batch, masked) if on_host and batch.marginal is None else every_position(batch)
        scored = score_rows(doubled(batch))
        log_probs, null = scored.logits_at(asked.at).log_softmax(dim=-1).tensor_split([len(asked.row)])
        weight = batch.guidance[asked.row]
        some = slice(None) if asked.guided is None else asked.guided
        guided = log_probs
        if len(null):
            guided = guide(log_probs[some], null, weight[some])
            guided = guided if asked.guided is None else log_probs.index_copy(0, asked.guided, guided)
        utterances = torch.arange(count, device=step.device)
        if batch.uniform is None:
            picked = guided.argmax(dim=-1)
        else:
            uniform = batch.uniform[utterances, step].flatten()
            picked = sample(guided, batch.temperature[asked.row], uniform if asked.own is None else uniform[asked.own])
        score = self._calibrated(batch, log_probs, picked, asked.row, None)
        if len(null):
            other = self._calibrated(batch, null, picked[some], asked.row[some], batch.guided)
            other = combine(score[some], other, weight[some])
            score = other if asked.guided is None else score.index_copy(0, asked.guided, other)
        if asked.own is not None:
            places = count * width
            score = score.new_zeros(places).index_copy_(0, asked.own, score)
            picked = picked.new_zeros(places).index_copy_(0, asked.own, picked)
        picked, score = picked.view(count, width), score.view(count, width)
        ranked = rank(score + batch.jitter[utterances, step], masked)
        wanted = batch.scheduled[utterances, step]
        if batch.quantiles is not None:
            wanted = torch.maximum(wanted, quantile_count(ranked, batch.quantiles[utterances, step]))
        opened = torch.where((step >= batch.last)[:, None], masked, best(ranked, wanted))
        tokens = torch.where(opened, picked, batch.tokens)
        masked = (tokens == mask_id) & before_stop(tokens, stop_id)
        places = None if on_host else scored.places
        return Denoised(tokens, masked, None if places is None else places[:count])

    def _calibrated(self, batch: StepBatch, values: Tensor, picked: Tensor, row: Tensor, rows: Tensor | None) -> Tensor:
        """Scores [P] of tokens `picked` [P] of utterances `row` [P]; rows: which ones these are, None being all of them."""
        prior = batch.prior[row, picked]
        if batch.marginal is not None:
            present = batch.present if rows is None else batch.present[rows]
            own = block_marginal(values.view(*present.shape, -1), present)
            at = torch.arange(len(present), device=row.device).repeat_interleave(present.shape[1], output_size=len(row))
            prior = torch.where(batch.marginal[row], own[at, picked], prior)
        return calibrate(values, prior, picked)

    def _advance(self, decoding: Decoding, read: list[int], width: int) -> Decoded | None:
        """read: the tokens of a row, how many are still to be opened, and, if there are any, its places."""
        decoding.open_tokens = read[: len(decoding.open_tokens)]
        decoding.step += 1
        decoding.steps += 1
        if read[width]:
            return None
        take = self._take(decoding, read, width)
        if decoding.best is None or take.gaps.tokens < decoding.best.gaps.tokens:
            decoding.best = take
        # A word with one token is mostly heard: it alone is no reason to begin.
        wanting = decoding.best.gaps.tokens if decoding.takes else take.gaps.words
        if wanting and decoding.takes < decoding.params.retakes:
            decoding.takes += 1
            self._mask(decoding)
            return None
        take, decoding.best, decoding.takes = decoding.best, None, 0
        if decoding.coverage is not None and take.places is not None:
            decoding.coverage.keep(take.heard, take.places)
        decoding.tokens += len(take.heard)
        decoding.block += 1
        if len(take.heard) < len(take.block) or decoding.block * decoding.block_size >= decoding.budget:
            decoding.finished = True
        else:
            self._engine.commit(decoding.rows, [take.block] * len(decoding.rows))
            self._mask(decoding)
        kept = [n for n, token in enumerate(take.heard) if token < CODEC_VOCAB]
        return Decoded([take.heard[n] for n in kept], None if take.places is None else [take.places[n] for n in kept])

    def _take(self, decoding: Decoding, read: list[int], width: int) -> Take:
        block = decoding.open_tokens
        stop = self._engine.config.stop_speech
        heard = block[: block.index(stop)] if stop in block else block
        if len(read) == width + 1:
            return Take(block, heard, None, NO_GAPS)
        places = [place / _PLACE_UNITS for place in read[width + 1 : width + 1 + len(heard)]]
        gaps = NO_GAPS
        if decoding.coverage is not None:
            gaps = decoding.coverage.gaps(heard, places, ended=stop in block)
        return Take(block, heard, places, gaps)

    def _mask(self, decoding: Decoding) -> None:
        """Begin to denoise its next block, or the same once more."""
        size = min(decoding.block_size, decoding.budget - decoding.block * decoding.block_size)
        decoding.open_tokens = [self._engine.config.mask_id] * size
        decoding.step = 0

    def _batch(self, decodings: Sequence[Decoding]) -> tuple[StepBatch, Tensor]:
        params = [decoding.knobs for decoding in decodings]
        guided = [n for n, decoding in enumerate(decodings) if len(decoding.rows) > 1]
        width = max(len(decoding.open_tokens) for decoding in decodings)
        most = max(each.steps for each in params)
        tokens, scheduled, quantiles = [], [], []
        for decoding in decodings:
            size, each = len(decoding.open_tokens), decoding.params
            tokens.append(decoding.open_tokens + [ABSENT] * (width - size))
            counts = schedule(size, each.steps, each.schedule_shift)
            scheduled.append([*counts, *[0] * (most - each.steps)])
            off = each.early == 0
            quantiles.append([2.0 if off else early_quantile(k, each.steps, each.early) for k in range(most)])
        prior = torch.stack([self._engine.prior(decoding.block_size) for decoding in decodings])
        device = prior.device

        def floats(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        keys = torch.tensor([decoding.key for decoding in decodings], device=device)
        uniform, gumbel = random_numbers(keys, most, width)
        open_tokens = torch.tensor(tokens, device=device)
        marginal = torch.tensor([each.prior == "marginal" for each in params], device=device)
        batch = StepBatch(
            rows=(*(row for decoding in decodings for row in decoding.rows[:1]), *(decodings[n].rows[1] for n in guided)),
            tokens=open_tokens,
            present=open_tokens != ABSENT,
            sizes=tuple(len(decoding.open_tokens) for decoding in decodings),
            guided_at=tuple(guided),
            guided=None if len(guided) == len(decodings) else torch.tensor(guided, dtype=torch.long, device=device),
            guidance=floats([each.guidance for each in params]),
            temperature=floats([each.temperature for each in params]),
            jitter=gumbel * floats([each.position_noise for each in params])[:, None, None],
            uniform=None if all(each.temperature == 0 for each in params) else uniform,
            prior=prior,
            marginal=marginal if any(each.prior == "marginal" for each in params) else None,
            scheduled=torch.tensor(scheduled, device=device),
            quantiles=None if all(each.early == 0 for each in params) else floats(quantiles),
            last=torch.tensor([each.steps - 1 for each in params], device=device),
        )
        return batch, torch.tensor([decoding.step for decoding in decodings], device=device)


def _whole(places: Tensor) -> Tensor:
    return (places * _PLACE_UNITS).round().long()
