"""What one utterance, and one voice, keep between pieces of speech, and how tokens are cut into pieces.

Data and arithmetic only: the networks are in `flow.py` and do the same for both modes. In `chunk` mode the past is a cache
that grows by every piece. In `continue` mode the cache is the prompt's and stays; the piece is computed together with the last
emitted tokens, whose mel is given as the condition. Either way a pass computes `[context | new]` on top of a cache:

    chunk     cache: prompt, all pieces before     context: the prompt's last tokens, in the first pass only
    continue  cache: prompt                        context: the prompt's last tokens, the last emitted tokens

The prompt's last `lookahead_tokens` are context because the encoder mixes them with the first generated ones: the cache of a
voice ends where the voice alone decides. Chunks are counted from there, so that a piece is a whole chunk whatever the prompt's
length, and ends `lookahead_tokens` before the end of the tokens that are known.

Letters: P prompt tokens, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cf_agents.config import FRAMES_PER_TOKEN, FlowConfig
from cf_agents.models.flow_cache import FlowCache, Reach
from cf_agents.models.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class FlowPrompt:
    """What the flow is told of a voice, on the device of the weights.

    tokens: int64 [P], mel: [2P, 80], speaker: [192] (x-vector, not normalised).
    """

    tokens: Tensor
    mel: Tensor
    speaker: Tensor


@dataclass(frozen=True, eq=False)
class Context:
    """Tokens that are computed again in a pass although their mel is known.

    tokens: int64 [c], mel: [2c, 80], noise: [2c, 80].
    """

    tokens: Tensor
    mel: Tensor
    noise: Tensor

    @property
    def length(self) -> int:
        return self.tokens.shape[0]

    def cut(self, start: int, stop: int) -> Context:
        """Tokens start to stop - 1 and their frames."""
        frames = slice(FRAMES_PER_TOKEN * start, FRAMES_PER_TOKEN * stop)
        return Context(self.tokens[start:stop], self.mel[frames], self.noise[frames])

    def joined(self, other: Context) -> Context:
        return Context(*(torch.cat(pair) for pair in zip(self.parts(), other.parts(), strict=True)))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens, self.mel, self.noise


@dataclass(frozen=True, eq=False)
class FlowVoice:
    """A prompt made ready by `Flow.prepare`: immutable, shared by every state of that voice.

    speaker: [80], cache: the prompt without its last tokens, tail: those.
    """

    speaker: Tensor
    cache: FlowCache
    tail: Context


@dataclass(eq=False)
class FlowState:
    """One utterance between two pieces; whoever opened it owns it, and ends it by dropping it.

    waiting: int64 tokens that are not mel yet, emitted: tokens that are.
    """

    voice: FlowVoice
    noise: NoiseSource
    cache: FlowCache
    context: Context
    waiting: Tensor
    emitted: int = 0
    finished: bool = False


def ready_tokens(config: FlowConfig, state: FlowState, last: bool) -> int:
    """How many waiting tokens the next pass may turn into mel."""
    waiting, ahead = state.waiting.shape[0], config.lookahead_tokens
    if config.mode == "continue":
        return waiting if last else max(0, waiting - ahead)
    return next_chunk(config, waiting, state.emitted == 0, last)


def next_chunk(config: FlowConfig, waiting: int, first: bool, last: bool) -> int:
    """Tokens of the chunk that begins with the first of `waiting`, 0 when it cannot be closed yet.

    A chunk closes when it is full and its look-ahead is known. The first shares its width with the prompt's last tokens. What
    remains at the end is the last chunk: it takes fewer than `lookahead_tokens` tokens too many rather than leave them alone.
    """
    width = config.chunk_tokens - config.lookahead_tokens * first
    if waiting >= width + config.lookahead_tokens:
        return width
    return waiting if last else 0


def prompt_chunks(config: FlowConfig, length: int) -> list[int]:
    """Lengths of the chunks of a prompt's cached `length` tokens: whole ones, what is left over comes first."""
    left_over = length % config.chunk_tokens
    return [left_over] * (left_over > 0) + [config.chunk_tokens] * (length // config.chunk_tokens)


def chunk_reach(config: FlowConfig, prompt: int, generated: int, device: torch.device) -> Reach:
    """The attention of `chunk` mode over a whole utterance, [prompt | generated] at the rate of tokens.

    A token attends to its own chunk and those before it; with a window, to the prompt's cached tokens and to `window_tokens`
    before its chunk, and what lies between the two counts for no distance.
    """
    cached = max(0, prompt - config.lookahead_tokens)
    lengths = prompt_chunks(config, cached)
    left = generated
    while left > 0:
        length = next_chunk(config, left, left == generated, last=True)
        lengths.append(length + (prompt - cached) * (left == generated))
        left -= length
    ends = torch.tensor(lengths).cumsum(0)
    total = prompt + generated
    widths = torch.tensor(lengths)
    stop = ends.repeat_interleave(widths)[:, None]
    start = (ends - widths).repeat_interleave(widths)[:, None]
    query, key = torch.arange(total)[:, None], torch.arange(total)[None, :]
    seen = key < stop
    distance = query - key
    if config.window_tokens:
        oldest = (start - config.window_tokens).clamp(min=cached)
        seen &= (key < cached) | (key >= oldest)
        distance = distance - (oldest - cached) * (key < cached)
    low, high = 1 - total, total - 1
    return Reach(seen.to(device)[None, None], (distance - low).clamp(0, high - low).to(device)[None, None], low, high)
