"""What the decoder learns is what the engine computes: same states, same masks, same null row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cf_agents.config import CODEC_VOCAB, T3Config
from cf_agents.engines.base import Conditioning, Prefix
from cf_agents.engines.dense import DenseEngine
from cf_agents.models.t3 import T3
from training.objective import ABSENT, Batch, DecoderTrainer, digit_table, draw_deep, draw_hidden, visible

CONFIG = T3Config(
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    head_dim=16,
    backbone_vocab=1,
    text_vocab=40,
    max_text_tokens=64,
    start_text=3,
    speech_vocab=CODEC_VOCAB + 2,
    max_speech_tokens=124,
    speaker_dim=8,
    perceiver_queries=3,
    perceiver_heads=2,
    prompt_tokens=5,
    block_size=4,
    alignment_heads=((0, 1), (1, 0)),
)
TEXTS = ((3, 5, 6, 7, 0), (3, 9, 0))
STOP = CONFIG.stop_speech


def small_batch() -> Batch:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, CODEC_VOCAB, (2, 12))
    tokens[0, 10:] = STOP
    tokens[1, 6:8] = STOP
    tokens[1, 8:] = ABSENT
    text = np.full((2, 5), ABSENT)
    for row, ids in enumerate(TEXTS):
        text[row, : len(ids)] = ids
    return Batch(
        text=torch.from_numpy(text),
        tokens=torch.from_numpy(tokens),
        place=torch.zeros(2, 12),
        phones=torch.zeros(2, 12, dtype=torch.long),
        prompt=torch.from_numpy(generator.integers(0, CODEC_VOCAB, (2, 5))),
        speaker=torch.from_numpy(generator.standard_normal((2, 8)).astype(np.float32)),
        exaggeration=torch.tensor([0.5, 0.25]),
        voice=torch.tensor([1, 0]),
    )


def trainer(config: T3Config = CONFIG) -> DecoderTrainer:
    torch.manual_seed(0)
    return DecoderTrainer(config)


def plain(module: DecoderTrainer) -> T3:
    t3 = module.t3
    tables = module.tables()
    with torch.no_grad():
        t3.speech_emb.weight.copy_(tables["speech_emb.weight"])
        t3.speech_head.weight.copy_(tables["speech_head.weight"])
        module.digits_out.zero_()
    return t3


@pytest.mark.parametrize("heads", [CONFIG.alignment_heads, ((0, 1),)])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_engine_predicts_from_the_states_that_were_trained(dropped: bool, heads: tuple[tuple[int, int], ...]) -> None:
    batch = small_batch()
    # The last layer is run for the places that are asked for alone, unless one of its heads is guided.
    module = trainer(replace(CONFIG, alignment_heads=heads))
    t3 = plain(module)
    hidden = draw_hidden(batch.tokens, CONFIG.block_size)
    with torch.no_grad():
        states, _ = module.predict(batch, torch.full((2,), dropped), hidden)
        trained = t3.head(states)
    assert torch.equal(hidden[0], ~hidden[1])
    engine = DenseEngine(t3, max_rows=2, max_length=64)
    for copy, row, blocks in ((0, 0, 3), (0, 1, 2), (1, 0, 3), (1, 1, 2)):
        voice = int(batch.voice[row])
        told = Conditioning(batch.speaker[voice].numpy(), batch.prompt[voice].numpy(), float(batch.exaggeration[voice]))
        (opened,) = engine.open([Prefix(None if dropped else told, TEXTS[row])])
        for block in range(blocks):
            span = slice(block * CONFIG.block_size, (block + 1) * CONFIG.block_size)
            clean = batch.tokens[row, span]
            noisy = torch.where(hidden[copy, row, span], CONFIG.mask_id, clean)
            scored = engine.score([opened], noisy[None]).logits[0]
            assert torch.allclose(scored, trained[copy, row, span], atol=2e-4), (copy, row, block)
            engine.commit([opened], [clean.tolist()])
        engine.close(opened)


def test_no_place_sees_the_answer_it_is_asked_for() -> None:
    batch = small_batch()
    shown, noisy = visible(CONFIG, batch, clean=8)
    prefix = CONFIG.conditioning_length + 5 + 1
    assert not shown[0, prefix - 1, prefix:].any(), "SOS predicts the first token and sees none"
    assert shown[0, prefix + 3, prefix : prefix + 4].all()
    assert not shown[0, prefix + 3, prefix + 4 :].any(), "a clean block does not see the next"
    second = 4
    assert not noisy[0, second, prefix + 4 : prefix + 8].any(), "a noisy block does not see its own clean copy"
    assert noisy[0, second, prefix : prefix + 4].all()
    padding = slice(CONFIG.conditioning_length + 3, CONFIG.conditioning_length + 5)
    assert not noisy[1, second, padding].any()
    assert not shown[1, prefix:, padding].any()


def test_a_noisy_copy_does_not_see_the_other_which_shows_what_it_hides() -> None:
    batch, module = small_batch(), trainer()
    hidden = draw_hidden(batch.tokens, CONFIG.block_size)
    with torch.no_grad():
        both, _ = module.predict(batch, torch.zeros(2, dtype=torch.bool), hidden)
        alone, _ = module.predict(batch, torch.zeros(2, dtype=torch.bool), hidden[:1])
    assert torch.allclose(both[0], alone[0], atol=1e-5)


def test_deep_masks_hide_whole_blocks_and_few_tokens_seldom() -> None:
    tokens = torch.zeros(200, 32, dtype=torch.long)
    torch.manual_seed(0)
    hidden = draw_deep(tokens, 16, whole=0.5, least=0.5)
    assert hidden.shape == (1, 200, 32)
    share = hidden.view(-1, 16).float().mean(1)
    assert 0.45 < float((share == 1).float().mean()) < 0.6
    assert float((share < 0.2).float().mean()) < 0.02


def test_digits_of_a_code_are_those_of_its_number() -> None:
    table = digit_table()
    assert table.shape == (CODEC_VOCAB, 24)
    values = table.view(CODEC_VOCAB, 8, 3).argmax(-1)
    assert torch.equal((values * 3 ** torch.arange(8)).sum(-1), torch.arange(CODEC_VOCAB))


def test_losses_reach_every_weight_that_ships() -> None:
    module = trainer()
    batch = small_batch()
    parts = module.losses(batch, torch.tensor([False, True]), draw_hidden(batch.tokens, CONFIG.block_size, 1.0))
    sum(parts[name] for name in ("token", "phone", "guide", "prior")).backward()  # pyright: ignore
    unread = {"t3.speech_emb.weight", "t3.tfmr.embed_tokens.weight", "t3.text_head.weight"}
    silent = {name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0}
    assert silent == unread


def test_a_batch_without_any_text_has_finite_losses() -> None:
    module = trainer()
    batch = small_batch()
    parts = module.losses(batch, torch.ones(2, dtype=torch.bool), draw_hidden(batch.tokens, CONFIG.block_size, 0.0))
    assert all(torch.isfinite(value) for value in parts.values())
