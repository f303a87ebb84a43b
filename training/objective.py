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

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import CODEC_VOCAB, T3Config
from cf_agents.models.t3 import T3, rotary_table
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

    def losses(self, batch: Batch, drop: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Losses of a batch: drop bool [N] rows without text, hidden bool [K, N, S] tokens that are masked.

        Products run in bfloat16, with the weights rounded once; the gradients are those of the float32 weights.
        """
        tensors = {f"t3.{name}": value for name, value in self.tables().items()}
        tensors.update({name: value for name, value in self.named_parameters() if name not in tensors})
        rounded = {name: value.bfloat16() for name, value in tensors.items()}
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
        mask = visible(config, batch, clean, len(hidden))[:, None]  # [N, 1, L, L]
        bias = torch.zeros(mask.shape, dtype=x.dtype).masked_fill_(~mask, _MASKED)
        valid = batch.tokens != ABSENT
        placed = torch.cat([batch.place[:, :clean], *[batch.place] * len(hidden)], 1)
        counted = torch.cat([valid[:, :clean], *[valid] * len(hidden)], 1) & ~drop[:, None]
        guides: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (part.view(rows, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
            # Written out: on a CPU this is several times faster than the fused attention's backward with a mask.
            scores = (q * config.head_dim**-0.5) @ k.transpose(2, 3) + bias  # [N, H, L, L]
            for head in (head for at, head in config.alignment_heads if at == layer):
                guides.append(self._guide(scores[:, head, prefix:].float(), placed, counted, text))
            return (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows * length, -1)

        turned = cos.flatten(0, 1)[:, None], sin.flatten(0, 1)[:, None]
        states = self.t3.backbone(x.flatten(0, 1), *turned, attend).view(rows, length, -1)
        # A block's first token is predicted from the clean copy (or SOS), the rest from the noisy one.
        starts = states[:, prefix - 1 : prefix + clean : block]  # [N, blocks, C]
        noisy = states[:, prefix + clean :].unflatten(1, (len(hidden), -1, block)).transpose(0, 1)  # [K, N, blocks, D, C]
        starts = starts[None, :, :, None].expand(len(hidden), -1, -1, -1, -1)
        return torch.cat([starts, noisy[..., :-1, :]], 3).flatten(2, 3), guides

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

    def _guide(self, scores: Tensor, place: Tensor, counted: Tensor, text: int) -> Tensor:
        """-log of the attention's mass under a Gaussian at the character spoken, mean over tokens: [N, Q, L] scores."""
        first = self.t3.config.conditioning_length
        share = scores.log_softmax(-1)[..., first : first + text]
        distance = torch.arange(text) - place[..., None]
        missed = -torch.logsumexp(share - distance.square() / (2 * _GUIDE_WIDTH**2), -1)
        return (missed * counted).sum() / counted.sum().clamp(min=1)

    def _prior(self, target: Tensor) -> Tensor:
        """Teach the pass that `models.t3.prior` makes what the tokens' own distribution is."""
        config, t3 = self.t3.config, self.t3
        ids = torch.full((config.block_size,), config.mask_id)
        ids[0] = config.start_speech
        logits = t3.head(t3.causal(t3.embed_speech(ids, torch.arange(config.block_size)))).float()
        share = torch.bincount(target, minlength=config.speech_vocab) / max(1, target.shape[0])
        return -(logits.log_softmax(-1) @ share).mean()


def visible(config: T3Config, batch: Batch, clean: int, copies: int) -> Tensor:
    """Which place sees which, bool [N, L, L]; the picture is in the module's docstring."""
    told, speech = config.conditioning_length + batch.text.shape[1], batch.tokens.shape[1]
    prefix = told + 1
    block = torch.arange(speech) // config.block_size
    length = prefix + clean + copies * speech
    sees = torch.zeros(length, length, dtype=torch.bool)
    sees[:prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    sees[prefix:, :prefix] = True
    copy = slice(prefix, prefix + clean)
    sees[copy, copy] = block[:clean, None] >= block[None, :clean]
    for start in range(prefix + clean, length, speech):
        noisy = slice(start, start + speech)
        sees[noisy, copy] = block[:, None] > block[None, :clean]
        sees[noisy, noisy] = block[:, None] == block[None]
    rows = sees.expand(batch.text.shape[0], -1, -1).clone()
    rows[:, :, config.conditioning_length : told] &= (batch.text >= 0)[:, None]
    return rows


def draw_hidden(tokens: Tensor, block: int, ratio: float | None = None) -> Tensor:
    """Which tokens are masked, bool [2, N, S]: what the first copy masks the second shows, and the other way round.

    Each block of the first copy has its own ratio, uniform in 0..1 unless given.
    """
    shape = tokens.shape[0], tokens.shape[1] // block, 1
    ratios = torch.rand(shape) if ratio is None else torch.full(shape, ratio)
    hidden = (torch.rand(*shape[:2], block) < ratios).flatten(1)
    return torch.stack([hidden, ~hidden])


def digit_table() -> Tensor:
    """float32 [6561, 24]: which of three values each of a code's eight digits has, as ones."""
    codes = torch.arange(CODEC_VOCAB)
    digits = codes[:, None] // _LEVELS ** torch.arange(_DIGITS) % _LEVELS  # [6561, 8]
    return F.one_hot(digits, _LEVELS).flatten(1).float()


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
