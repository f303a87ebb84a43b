"""The decoder network in MLX: `models.t3.T3` with the same tensor names, products fused and, if asked, quantised.

A back-end brings its own attention, as in `models.t3`. Knows nothing of files, caches or rows. Nothing lazy is left behind: MLX
evaluates an array on the thread that described it, and an engine may be built on one thread and used on another.

Shapes: T tokens of all rows end to end, C hidden size, H heads, E head size, P prompt tokens, V speech vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from cf_agents.config import T3Config
from cf_agents.models.t3 import rotary_frequencies

GROUP_SIZES = (64, 32)
"""Weights that share a scale when quantised: the first that divides a product's width."""

Read = Callable[[str], mx.array]
"""A tensor by its released name, in any floating dtype."""


class Attend(Protocol):
    """A back-end's attention for one layer: q, k, v [T, H, E] in, [T, H * E] out."""

    def __call__(self, layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array: ...


@dataclass(frozen=True)
class Product:
    """y = x W^T + b for a weight [O, I], quantised where it has scales."""

    weight: mx.array
    bias: mx.array | None = None
    scales: mx.array | None = None
    offsets: mx.array | None = None
    bits: int = 0
    group: int = 0

    @staticmethod
    def make(weight: mx.array, bias: mx.array | None = None, bits: int | None = None) -> Product:
        """`bits` 8 or 4 quantises (affine, by groups of a row); a width that no group divides stays as it is."""
        group = next((size for size in GROUP_SIZES if weight.shape[1] % size == 0), 0)
        if bits is None or not group:
            return Product(weight, bias)
        packed, scales, offsets = mx.quantize(weight, group_size=group, bits=bits)
        return Product(packed, bias, scales, offsets, bits, group)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., I] -> [..., O]."""
        if self.scales is None:
            y = x @ self.weight.T
        else:
            y = mx.quantized_matmul(
                x, self.weight, self.scales, self.offsets, transpose=True, group_size=self.group, bits=self.bits
            )
        return y if self.bias is None else y + self.bias

    def arrays(self) -> Iterator[mx.array]:
        """Everything it holds."""
        yield from (each for each in (self.weight, self.bias, self.scales, self.offsets) if each is not None)


@dataclass(frozen=True)
class Layer:
    """One pre-norm Llama layer."""

    attention_norm: mx.array
    qkv: Product
    out: Product
    mlp_norm: mx.array
    gate_up: Product
    down: Product

    def arrays(self) -> Iterator[mx.array]:
        yield from (self.attention_norm, self.mlp_norm)
        for product in (self.qkv, self.out, self.gate_up, self.down):
            yield from product.arrays()


@dataclass(frozen=True)
class Resampler:
    """Perceiver attention: learned queries attend to the prompt, then to themselves, with the same weights."""

    queries: mx.array
    norm_weight: mx.array
    norm_bias: mx.array
    to_q: Product
    to_k: Product
    to_v: Product
    proj_out: Product
    heads: int

    def __call__(self, prompt: mx.array) -> mx.array:
        """[P, C] to [queries, C]."""
        attended = self._attend(self.queries, prompt)
        return self._attend(attended, attended)

    def _attend(self, query: mx.array, memory: mx.array) -> mx.array:
        from_query, from_memory = (mx.fast.layer_norm(x, self.norm_weight, self.norm_bias, 1e-5) for x in (query, memory))
        q, k, v = (
            mx.unflatten(part, -1, (self.heads, -1)).swapaxes(0, 1)[None]  # [1, heads, P, C / heads]
            for part in (self.to_q(from_query), self.to_k(from_memory), self.to_v(from_memory))
        )
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return query + self.proj_out(mixed[0].swapaxes(0, 1).flatten(-2))

    def arrays(self) -> Iterator[mx.array]:
        yield from (self.queries, self.norm_weight, self.norm_bias)
        for product in (self.to_q, self.to_k, self.to_v, self.proj_out):
            yield from product.arrays()


class MetalT3:
    """Text and speech embeddings, conditioning, backbone and head; immutable."""

    def __init__(self, config: T3Config, read: Read, dtype: mx.Dtype = mx.float32, quantise: int | None = None) -> None:
        """Take every tensor from `read`, once each, in `dtype`; the layers' products and the head in `quantise` bits.

        One layer at a time is read, fused and evaluated, so that no more than a layer is ever held twice.
        """
        self.config, self.dtype = config, dtype

        def get(name: str) -> mx.array:
            return read(name).astype(dtype, stream=mx.cpu)  # files may hold float64, which no GPU has

        def product(*names: str) -> Product:
            parts = [get(name) for name in names]
            return Product.make(parts[0] if len(parts) == 1 else mx.concatenate(parts), bits=quantise)

        def biased(name: str) -> Product:
            return Product.make(get(name + ".weight"), get(name + ".bias"))

        self.speech_emb = _done(get("speech_emb.weight"))
        self.speech_pos = _done(get("speech_pos_emb.emb.weight"))
        self.text_emb = _done(get("text_emb.weight"))
        self.text_pos = _done(get("text_pos_emb.emb.weight"))
        self.norm = _done(get("tfmr.norm.weight"))
        self.head = product("speech_head.weight")
        self.speaker = biased("cond_enc.spkr_enc")
        self.emotion = Product.make(get("cond_enc.emotion_adv_fc.weight"))
        attention = "cond_enc.perceiver.attn."
        self.perceiver = Resampler(
            queries=get("cond_enc.perceiver.pre_attention_query")[0],
            norm_weight=get(attention + "norm.weight"),
            norm_bias=get(attention + "norm.bias"),
            to_q=biased(attention + "to_q"),
            to_k=biased(attention + "to_k"),
            to_v=biased(attention + "to_v"),
            proj_out=biased(attention + "proj_out"),
            heads=config.perceiver_heads,
        )
        mx.eval(*self.head.arrays(), *self.speaker.arrays(), *self.emotion.arrays(), *self.perceiver.arrays())
        self.layers: list[Layer] = []
        for index in range(config.num_layers):
            name = f"tfmr.layers.{index}."
            layer = Layer(
                attention_norm=get(name + "input_layernorm.weight"),
                qkv=product(*(f"{name}self_attn.{part}_proj.weight" for part in "qkv")),
                out=product(name + "self_attn.o_proj.weight"),
                mlp_norm=get(name + "post_attention_layernorm.weight"),
                gate_up=product(name + "mlp.gate_proj.weight", name + "mlp.up_proj.weight"),
                down=product(name + "mlp.down_proj.weight"),
            )
            mx.eval(*layer.arrays())
            self.layers.append(layer)
        # MLX divides positions by these where the papers multiply.
        self._periods = _done(1.0 / mx.array(rotary_frequencies(config).numpy()))

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        total = sum(each.nbytes for each in (self.speech_emb, self.speech_pos, self.text_emb, self.text_pos, self.norm))
        parts = (self.head, self.speaker, self.emotion, self.perceiver, *self.layers)
        return total + sum(each.nbytes for part in parts for each in part.arrays())

    def backbone(self, x: mx.array, positions: mx.array, attend: Attend) -> mx.array:
        """Embeddings [T, C] at rotary positions int32 [T] to final hidden states [T, C]."""
        heads, eps = self.config.num_heads, self.config.rms_norm_eps
        for index, layer in enumerate(self.layers):
            qkv = mx.unflatten(layer.qkv(mx.fast.rms_norm(x, layer.attention_norm, eps)), -1, (3 * heads, -1))  # [T, 3H, E]
            rotated = self._rotate(qkv[:, : 2 * heads], positions)
            x = x + layer.out(attend(index, rotated[:, :heads], rotated[:, heads:], qkv[:, 2 * heads :]))
            gate, up = mx.split(layer.gate_up(mx.fast.rms_norm(x, layer.mlp_norm, eps)), 2, axis=-1)
            x = x + layer.down(_swiglu(gate, up))
        return mx.fast.rms_norm(x, self.norm, eps)

    def embed_conditioning(self, speaker: NDArray[np.float32], prompt_tokens: NDArray[np.int64], level: float) -> mx.array:
        """speaker [speaker_dim], prompt ids [P] and exaggeration to the voice's prefix positions [conditioning_length, C]."""
        prompt = self.speech_emb[mx.array(prompt_tokens.astype(np.int32))] + self.speech_pos[: len(prompt_tokens)]
        given = self.speaker(mx.array(speaker).astype(self.dtype)[None])
        return mx.concatenate([given, self.perceiver(prompt), self.emotion(mx.full((1, 1), level, self.dtype))])

    def embed_text(self, ids: NDArray[np.int32]) -> mx.array:
        """Text ids [L] to [L, C]; positions count from 0 in the text."""
        return self.text_emb[mx.array(ids)] + self.text_pos[: len(ids)]

    def embed_speech(self, ids: mx.array, positions: mx.array) -> mx.array:
        """Speech ids and their block-local positions, [T] each, to [T, C]."""
        return self.speech_emb[ids] + self.speech_pos[positions]

    def prior(self, block_size: int) -> mx.array:
        """`models.t3.prior`: the unconditional distribution over speech ids, float32 [V]."""
        config = self.config
        places = mx.arange(block_size)
        ids = mx.where(places == 0, config.start_speech, config.mask_id)

        def attend(layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            sides = (part.swapaxes(0, 1)[None] for part in (q, k, v))
            mixed = mx.fast.scaled_dot_product_attention(*sides, scale=config.head_dim**-0.5, mask="causal")
            return mixed[0].swapaxes(0, 1).flatten(1)

        logits = self.head(self.backbone(self.embed_speech(ids, places), places, attend))
        return mx.softmax(logits.astype(mx.float32), axis=-1).mean(axis=0)

    def _rotate(self, x: mx.array, positions: mx.array) -> mx.array:
        # A token is a sequence of one, so that each has its own offset.
        return mx.fast.rope(
            x[:, :, None], x.shape[-1], traditional=False, base=None, scale=1.0, offset=positions, freqs=self._periods
        )[:, :, 0]


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    # Not through mx.compile: MLX 0.32.4 on a CPU aborts at exit, one time in two, once two threads ran a compiled function.
    return gate * mx.sigmoid(gate) * up


def _done(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
