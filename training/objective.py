"""The block-diffusion objective of the decoder: a clean copy and noisy copies of the speech tokens behind a causal prefix.

    row      [ conditioning | text, padded | SOS | clean tokens | noisy tokens | noisy tokens ]
    sees     prefix: causally; clean block b: prefix, clean <= b; noisy block b: prefix, clean < b, its own block
    predicts token 0 of block b from the last clean token before it, token i > 0 from the noisy place i - 1

These are the seams of `Engine.score` and `commit`: a clean block is attended to within itself and never sees an open one. All
copies of a token share a rotary position; learned positions count within a block. Two noisy copies that mask what the other
shows make every token a target once, for little more than the work of one. A row whose text is dropped is the null row
of guidance: conditioning and text embeddings are zero. Knows nothing of optimisers or files.

Letters: N rows, K noisy copies, L places of a row, S speech tokens of the widest row (whole blocks), C hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import CODEC_VOCAB, T3Config
from cf_agents.models.t3 import T3, Layer, rotary_table, rotate
from training.speech import PHONES

ABSENT = -1
_DIGITS, _LEVELS = 8, 3
_GUIDE_WIDTH = 1.5
"""Characters: standard deviation of the place that an aligned head is guided to."""
_MASKED = -1e4


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of text and speech, and the conditionings they use.

    text int64 [N, Lt] with -1 past a row's end; tokens int64 [N, S], the stop id filling the last block and -1 behind it;
    place float32 [N, S]: the text place spoken at each token; phones int64 [N, S]. prompt int64 [P, prompt tokens], speaker
    float32 [P, speaker_dim] and exaggeration float32 [P]; voice int64 [N]: which of these a row has.
    """

    text: Tensor
    tokens: Tensor
    place: Tensor
    phones: Tensor
    prompt: Tensor
    speaker: Tensor
    exaggeration: Tensor
    voice: Tensor


class Attend(Protocol):
    """`t3.Attend` that may be given the queries of the blocks' starts instead of those of all that is shown."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, starts: bool = False) -> Tensor: ...


class DecoderTrainer(nn.Module):
    """A `T3` whose speech tables are sums of digit vectors while it learns, and what else teaches it.

    Codes that differ in one digit sound alike, so their rows share seven of eight parts; `tables` gives the plain rows.
    The attention of the config's `alignment_heads` is guided to the character being spoken.
    """

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.t3 = T3(config)
        width = config.hidden_size
        self.digits_in = nn.Parameter(torch.randn(_DIGITS * _LEVELS, width) * 0.06)
        self.special_in = nn.Parameter(torch.randn(config.speech_vocab + 1 - CODEC_VOCAB, width) * 0.06)
        self.digits_out = nn.Parameter(torch.randn(_DIGITS * _LEVELS, width) * 0.02)
        self.phone_head = nn.Linear(width, len(PHONES))
        self.register_buffer("digits", digit_table(), persistent=False)
        self.digits: Tensor
        _initialise(self.t3)

    def tables(self) -> Mapping[str, Tensor]:
        """The speech embedding and head, by the names they have in `t3`."""
        codes = self.digits @ self.digits_in
        head = self.t3.speech_head.weight
        shared = F.pad(self.digits @ self.digits_out, (0, 0, 0, head.shape[0] - CODEC_VOCAB))
        return {"speech_emb.weight": torch.cat([codes, self.special_in]), "speech_head.weight": head + shared}

    def losses(self, batch: Batch, drop: Tensor, hidden: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Losses of a batch: drop bool [N] rows without text, hidden bool [K, N, S] tokens that are masked.

        Products run in `dtype`, with the weights rounded once; the gradients are those of the float32 weights.
        """
        tensors = {f"t3.{name}": value for name, value in self.tables().items()}
        tensors.update({name: value for name, value in self.named_parameters() if name not in tensors})
        rounded = {name: value.to(dtype) for name, value in tensors.items()}
        return torch.func.functional_call(self, rounded, (batch, drop, hidden))

    def forward(self, batch: Batch, drop: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        states, guides = self.predict(batch, drop, hidden)
        wanted = hidden.clone()
        # The first token of a block has one state for all copies.
        wanted[0, :, :: self.t3.config.block_size] = True
        wanted[1:, :, :: self.t3.config.block_size] = False
        wanted &= batch.tokens != ABSENT
        chosen, target = states[wanted], batch.tokens.expand_as(wanted)[wanted]
        logits = self.t3.head(chosen).float()
        token = F.cross_entropy(logits, target)
        return {
            "token": token,
            "phone": F.cross_entropy(self.phone_head(chosen).float(), batch.phones.expand_as(wanted)[wanted]),
            "guide": torch.stack(guides).mean() if guides else token.new_zeros(()),
            "prior": self._prior(target),
            "right": (logits.argmax(-1) == target).float().mean(),
        }

    def predict(self, batch: Batch, drop: Tensor, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The states [K, N, S, C] that tokens are predicted from, and the alignment loss of each guided head."""
        config = self.t3.config
        block, rows, text = config.block_size, batch.tokens.shape[0], batch.text.shape[1]
        prefix = config.conditioning_length + text + 1  # with SOS
        clean = batch.tokens.shape[1] - block
        x = self._embed(batch, drop, hidden)  # [N, L, C]
        length = x.shape[1]
        cos, sin = self._rotation(batch, x, len(hidden))
        shown = prefix + clean
        sees = visible(config, batch, clean)
        biases = [torch.zeros(mask.shape, dtype=x.dtype).masked_fill_(~mask, _MASKED)[:, None] for mask in sees]
        valid = (batch.tokens != ABSENT) & ~drop[:, None]
        guides: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, starts: bool = False) -> Tensor:
            q, k, v = (part.view(rows, -1, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
            q = q * config.head_dim**-0.5
            keys, values = k[:, :, :shown].transpose(2, 3), v[:, :, :shown]
            first, seen = shown, biases[0]
            if starts:
                seen = seen[:, :, prefix - 1 :: block]
                first = seen.shape[2]
            # Written out: on a CPU this is faster than the fused attention's backward with a mask.
            told = (q[:, :, :first] @ keys).add_(seen)  # [N, H, first, shown]
            own = [part.unflatten(2, (-1, block)) for part in (q[:, :, first:], k[:, :, shown:], v[:, :, shown:])]
            others = (q[:, :, first:] @ keys).unflatten(2, (len(hidden), -1)).add_(biases[1][:, :, None]).flatten(2, 3)
            noisy = torch.cat([others, (own[0] @ own[1].transpose(3, 4)).flatten(2, 3)], -1)  # [N, H, K S, shown + D]
            for head in (head for at, head in config.alignment_heads if at == layer):
                guides.append(self._guide(told[:, head, prefix:], noisy[:, head], batch.place, valid, text))
            share = noisy.softmax(-1)
            within = (share[..., shown:].unflatten(2, (-1, block)) @ own[2]).flatten(2, 3)
            mixed = torch.cat([told.softmax(-1) @ values, share[..., :shown] @ values + within], 2)
            return mixed.transpose(1, 2).flatten(0, 1).flatten(1)

        layers = list(self.t3.tfmr.layers)
        asked = [*range(prefix - 1, shown, block), *range(shown, length)]
        turned = cos.flatten(0, 1)[:, None], sin.flatten(0, 1)[:, None]
        x = x.flatten(0, 1)
        for layer in layers[:-1]:
            x = layer(x, *turned, attend)
        if any(at == len(layers) - 1 for at, _ in config.alignment_heads):
            x = layers[-1](x, *turned, attend).view(rows, length, -1)[:, asked]
        else:
            x = _finish(layers[-1], x, turned, rows, asked, attend)
        states = self.t3.tfmr.norm(x)
        # A block's first token is predicted from the clean copy (or SOS), the rest from the noisy one.
        blocks = batch.tokens.shape[1] // block
        starts = states[:, :blocks]
        copies = states[:, blocks:].unflatten(1, (len(hidden), -1, block)).transpose(0, 1)  # [K, N, blocks, D, C]
        starts = starts[None, :, :, None].expand(len(hidden), -1, -1, -1, -1)
        return torch.cat([starts, copies[..., :-1, :]], 3).flatten(2, 3), guides

    def _embed(self, batch: Batch, drop: Tensor, hidden: Tensor) -> Tensor:
        config, t3 = self.t3.config, self.t3
        block, rows, dtype = config.block_size, batch.tokens.shape[0], t3.speech_emb.weight.dtype
        clean = batch.tokens.shape[1] - block
        positions = t3.speech_pos_emb.emb.weight
        prompts = t3.speech_emb(batch.prompt) + positions[: batch.prompt.shape[1]]
        conditioning = torch.cat(
            [
                t3.cond_enc.spkr_enc(batch.speaker.to(dtype))[:, None],
                t3.cond_enc.perceiver(prompts),
                t3.cond_enc.emotion_adv_fc(batch.exaggeration.to(dtype)[:, None])[:, None],
            ],
            1,
        )[batch.voice]
        text = t3.text_emb(batch.text.clamp(min=0)) + t3.text_pos_emb.emb.weight[: batch.text.shape[1]]
        told = torch.cat([conditioning, text], 1) * (~drop)[:, None, None]
        sos = (t3.speech_emb.weight[config.start_speech] + positions[0]).expand(rows, 1, -1)
        local = torch.arange(batch.tokens.shape[1]) % block
        tokens = batch.tokens.clamp(min=0)
        noisy = t3.embed_speech(torch.where(hidden, config.mask_id, tokens), local)  # [K, N, S, C]
        return torch.cat([told, sos, t3.embed_speech(tokens[:, :clean], local[:clean]), *noisy], 1)

    def _rotation(self, batch: Batch, x: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        config = self.t3.config
        speech, told = batch.tokens.shape[1], config.conditioning_length + batch.text.shape[1]
        clean = speech - config.block_size
        # Padding of the text moves nothing: SOS and speech count on from the row's own text.
        own = (config.conditioning_length + (batch.text >= 0).sum(1))[:, None]
        count = torch.arange(speech + 1)
        rows = batch.tokens.shape[0]
        place = torch.cat(
            [torch.arange(told).expand(rows, -1), own + count[: clean + 1], *[own + count[1:]] * copies],
            1,
        )  # [N, L]
        cos, sin = rotary_table(config, int(place.max()) + 1, x.device, x.dtype)
        return cos[place, 0], sin[place, 0]

    def _guide(self, clean: Tensor, noisy: Tensor, place: Tensor, counted: Tensor, text: int) -> Tensor:
        """-log of the attention's mass under a Gaussian at the character spoken, mean over tokens.

        Scores of clean places [N, S - D, L] and of noisy ones [N, K S, L']; place and counted [N, S].
        """
        first = self.t3.config.conditioning_length
        near = -(torch.arange(text) - place[..., None]).square() / (2 * _GUIDE_WIDTH**2)  # [N, S, text]
        missed, count = place.new_zeros(()), 0
        for scores in (clean, *noisy.split(place.shape[1], 1)):
            wide = scores.shape[1]
            share = scores.float().log_softmax(-1)[..., first : first + text]
            missed = missed - (torch.logsumexp(share + near[:, :wide], -1) * counted[:, :wide]).sum()
            count += int(counted[:, :wide].sum())
        return missed / max(1, count)

    def _prior(self, target: Tensor) -> Tensor:
        """Teach the pass that `models.t3.prior` makes what the tokens' own distribution is."""
        config, t3 = self.t3.config, self.t3
        ids = torch.full((config.block_size,), config.mask_id)
        ids[0] = config.start_speech
        logits = t3.head(t3.causal(t3.embed_speech(ids, torch.arange(config.block_size)))).float()
        share = torch.bincount(target, minlength=config.speech_vocab) / max(1, target.shape[0])
        return -(logits.log_softmax(-1) @ share).mean()


def visible(config: T3Config, batch: Batch, clean: int) -> tuple[Tensor, Tensor]:
    """Which place sees which of the prefix and the clean copy; the picture is in the module's docstring.

    Bool [N, shown, shown] of those places themselves and [N, S, shown] of a noisy copy, whose places also see their own block.
    """
    told, speech = config.conditioning_length + batch.text.shape[1], batch.tokens.shape[1]
    prefix = told + 1
    block = torch.arange(speech) // config.block_size
    shown = torch.zeros(prefix + clean, prefix + clean, dtype=torch.bool)
    shown[:prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    shown[prefix:, :prefix] = True
    shown[prefix:, prefix:] = block[:clean, None] >= block[None, :clean]
    noisy = torch.ones(speech, prefix + clean, dtype=torch.bool)
    noisy[:, prefix:] = block[:, None] > block[None, :clean]
    masks = []
    for sees in (shown, noisy):
        rows = sees.expand(batch.text.shape[0], -1, -1).clone()
        rows[:, :, config.conditioning_length : told] &= (batch.text >= 0)[:, None]
        masks.append(rows)
    return masks[0], masks[1]


def draw_hidden(tokens: Tensor, block: int, ratio: float | None = None) -> Tensor:
    """Which tokens are masked, bool [2, N, S]: what the first copy masks the second shows, and the other way round.

    Each block of the first copy has its own ratio, uniform in 0..1 unless given.
    """
    shape = tokens.shape[0], tokens.shape[1] // block, 1
    ratios = torch.rand(shape) if ratio is None else torch.full(shape, ratio)
    hidden = (torch.rand(*shape[:2], block) < ratios).flatten(1)
    return torch.stack([hidden, ~hidden])


def draw_deep(tokens: Tensor, block: int, whole: float = 0.5, least: float = 0.2) -> Tensor:
    """Which tokens are masked, bool [1, N, S]: a share `whole` of the blocks is all masked, the others at ratios of `least`..1.

    One noisy copy costs two thirds of two. What is said is decided where a block is still masked, so little is lost.
    """
    shape = tokens.shape[0], tokens.shape[1] // block, 1
    ratios = torch.where(torch.rand(shape) < whole, 1.0, least + (1.0 - least) * torch.rand(shape))
    return (torch.rand(*shape[:2], block) < ratios).flatten(1)[None]


def digit_table() -> Tensor:
    """float32 [6561, 24]: which of three values each of a code's eight digits has, as ones."""
    codes = torch.arange(CODEC_VOCAB)
    digits = codes[:, None] // _LEVELS ** torch.arange(_DIGITS) % _LEVELS  # [6561, 8]
    return F.one_hot(digits, _LEVELS).flatten(1).float()


def _finish(
    layer: nn.Module, x: Tensor, turned: tuple[Tensor, Tensor], rows: int, asked: Sequence[int], attend: Attend
) -> Tensor:
    """A last layer for the places that are asked for alone, [N L, C] to [N, asked, C]: the others only give keys and values."""
    assert isinstance(layer, Layer)
    attn, mlp = layer.self_attn, layer.mlp
    h = layer.input_layernorm(x)
    k = rotate(attn.k_proj(h).unflatten(1, (layer.heads, -1)), *turned)
    v = attn.v_proj(h).unflatten(1, (layer.heads, -1))
    chosen, at, *angles = (part.unflatten(0, (rows, -1))[:, asked].flatten(0, 1) for part in (h, x, *turned))
    q = rotate(attn.q_proj(chosen).unflatten(1, (layer.heads, -1)), *angles)
    y = at + attn.o_proj(attend(layer.index, q, k, v, starts=True))
    h = layer.post_attention_layernorm(y)
    return (y + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))).view(rows, len(asked), -1)


def _initialise(t3: T3) -> None:
    width = t3.config.hidden_size
    for module in (t3.text_emb, t3.text_pos_emb.emb, t3.speech_pos_emb.emb):
        nn.init.normal_(module.weight, 0.0, 0.06)
    nn.init.zeros_(t3.speech_emb.weight)
    nn.init.normal_(t3.speech_head.weight, 0.0, 0.01)
    nn.init.normal_(t3.cond_enc.perceiver.pre_attention_query, 0.0, 0.06)
    for name, weight in t3.tfmr.layers.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, 0.0, (0.3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.8) * width**-0.5)
