"""The MLX engine beside the dense one on the same weights; what every engine must do is in `test_engine`."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cf_agents.backends import choose
from cf_agents.checkpoint import T3_FILE, Checkpoint
from cf_agents.config import DecodeParams
from cf_agents.decode import Decoder
from cf_agents.engines.base import Engine
from cf_agents.errors import CheckpointMismatch
from cf_agents.loading import load_engine
from cf_agents.tts import TTS
from tests.small import SMALL, prefix, small_engine, small_mlx_engine, small_mlx_t3

mx = pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'cf-agents[mlx]'", exc_type=ImportError)

GREEDY = DecodeParams(steps=3, temperature=0.0, position_noise=0.0, max_tokens=36)


def spoken(engine: Engine) -> list[list[int]]:
    """Three utterances of other lengths and block sizes, one of them joining late, one without guidance."""
    decoder = Decoder(engine)
    wanted = [
        (prefix(5, 1, voice=1), GREEDY),
        (prefix(61, 2, voice=2), DecodeParams(steps=2, temperature=0.0, position_noise=0.0, guidance=0.0, max_tokens=20)),
        (prefix(23, 3, voice=1), DecodeParams(steps=4, temperature=0.0, position_noise=0.0, block_size=12, max_tokens=24)),
    ]
    decodings = [decoder.open(what, params, 7) for what, params in wanted[:2]]
    tokens: list[list[int]] = [[], [], []]
    for turn in range(40):
        if turn == 2:
            decodings.append(decoder.open(*wanted[2], 7))
        live = [decoding for decoding in decodings if not decoding.finished]
        if not live:
            break
        for decoding, block in zip(live, decoder.step(live), strict=True):
            tokens[decodings.index(decoding)] += block.tokens if block else []
    for decoding in decodings:
        decoder.close(decoding)
    return tokens


def half_open(seed: int, size: int = 16) -> torch.Tensor:
    ids = torch.tensor(np.random.RandomState(seed).randint(0, 6561, (1, size)))
    ids[:, ::3] = SMALL.mask_id
    return ids


def test_greedy_tokens_are_those_of_the_dense_engine() -> None:
    found, wanted = spoken(small_mlx_engine()), spoken(small_engine())
    assert found == wanted
    assert all(len(tokens) > 4 for tokens in wanted)


def test_the_prior_is_that_of_the_dense_engine() -> None:
    engine = small_mlx_engine(1)
    torch.testing.assert_close(engine.prior(16), small_engine(1).prior(16), rtol=1e-4, atol=1e-7)
    assert engine.prior(16) is engine.prior(16)


def test_half_precision_stays_near_the_prior_too() -> None:
    found, wanted = small_mlx_engine(1, dtype=torch.float16).prior(16), small_engine(1).prior(16)
    assert float((found - wanted).abs().sum()) < 0.02


def test_built_on_one_thread_and_used_on_another() -> None:
    """MLX refuses to evaluate what another thread described, so nothing may be left to evaluate."""
    engine = small_mlx_engine(4, 128)
    prefixes = [prefix(5), prefix(5).null()]
    rows = engine.open(prefixes) + engine.open(prefixes)  # the second time, what is shared is copied in
    caught: list[BaseException] = []

    def use() -> None:
        try:
            engine.score(rows, half_open(0).expand(4, -1))
            for row in rows:
                engine.close(row)
            again = engine.open(prefixes)
            engine.commit(again, [[1] * 16] * 2)
            engine.score(again, half_open(1).expand(2, -1))
            engine.prior(16)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert caught == []


def test_the_caches_are_updated_in_place() -> None:
    engine = small_mlx_engine(6, 256)

    def addresses() -> list[int]:
        return [np.array(cache, copy=False).ctypes.data for cache in (*engine._keys, *engine._values)]

    before = addresses()
    rows = []
    for _ in range(2):  # the second time, what a voice and a length share is copied in
        rows += engine.open([prefix(5), prefix(5).null()])
        assert addresses() == before
    for n in range(3):
        engine.score(rows, half_open(n).expand(4, -1))
        assert addresses() == before
        engine.commit(rows, [[n] * 16] * 4)
    engine.score([rows[3], rows[0]], half_open(5).expand(2, -1))
    assert addresses() == before


@pytest.mark.parametrize(("bits", "size", "off"), [(8, 0.30, 0.02), (4, 0.17, 0.25)])
def test_quantised_weights_are_small_and_near(bits: int, size: float, off: float) -> None:
    plain, quantised = small_mlx_t3(), small_mlx_t3(quantise=bits)

    def of_products(t3: object) -> int:
        return sum(each.nbytes for layer in t3.layers for each in layer.arrays())  # type: ignore[attr-defined]

    assert of_products(quantised) / of_products(plain) < size
    engine, dense = small_mlx_engine(2, 128, quantise=bits), small_engine(2, 128)
    found, wanted = (each.score(each.open([prefix(20)]), half_open(3)).logits for each in (engine, dense))
    assert 0 < float((found - wanted).pow(2).mean().sqrt() / wanted.std()) < off


def test_a_checkpoint_is_read_without_torch_weights(tiny_folder: Path) -> None:
    checkpoint = Checkpoint.open(tiny_folder)
    scores = []
    for backend in ("mlx", "dense"):
        engine = load_engine(checkpoint, choose(backend, dtype="float32"), 2)
        scores.append(engine.score(engine.open([prefix(9), prefix(9).null()]), half_open(2).expand(2, -1)).logits)
    torch.testing.assert_close(*scores, rtol=0, atol=5e-5)


def test_a_checkpoint_that_does_not_fit_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointMismatch, match=T3_FILE):
        load_engine(Checkpoint.open(folder), choose("mlx"), 1)


async def test_a_stream_speaks_the_same_on_both(tiny_folder: Path) -> None:
    said = []
    params = DecodeParams(steps=2, temperature=0.0, max_tokens=20)
    for backend in ("mlx", "dense"):
        async with TTS.load(tiny_folder, backend=backend, dtype="float32", params=params) as tts:
            assert tts.choice.backend == backend
            chunk = await tts.say("Hi.", seed=3)
            said.append(np.frombuffer(chunk.pcm, np.int16).astype(int))
    assert len(said[0]) == len(said[1]) > 0
    assert int(np.abs(said[0] - said[1]).max()) <= 2
