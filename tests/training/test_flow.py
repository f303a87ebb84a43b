"""The flow can be trained as it is, with the attention it streams with: rows, targets, first weights and what ships of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cf_agents.config import FlowConfig, XVectorConfig
from cf_agents.models.flow import Flow, FlowPrompt
from cf_agents.models.noise import FixedNoise
from tests.training.sets import tone_set
from training import ear
from training import flow as stage
from training.data import Dataset
from training.flow_data import FlowBatches, RowShape
from training.recogniser import Recogniser
from training.speaker import embeddings, speaker_net

TINY = FlowConfig(
    mode="chunk",
    chunk_tokens=4,
    window_tokens=8,
    encoder_dim=16,
    encoder_heads=2,
    encoder_ffn=32,
    encoder_blocks=1,
    up_encoder_blocks=1,
    channels=16,
    estimator_heads=2,
    estimator_head_dim=8,
    blocks_per_stage=1,
    mid_stages=1,
)
SMALL_NET = XVectorConfig(growth_rate=2, bottleneck_scale=2, init_channels=8, head_channels=2)
ROWS = RowShape(rows=6, tokens=24, shortest=6, longest=12)
LONG_ROWS = RowShape(rows=2, tokens=40, shortest=20, longest=30)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tone_set(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def batches(tones: Dataset) -> FlowBatches:
    return FlowBatches(tones, [torch.full((3, 192), 1.0), torch.full((3, 192), -1.0)], ROWS, LONG_ROWS, seed=0)


def test_rows_are_prompt_and_speech_of_one_speaker(batches: FlowBatches) -> None:
    usual, long = batches.draw(0), batches.draw(7)
    assert usual.tokens.shape == (6, 24)
    assert usual.mel.shape == (6, 48, 80)
    assert all(6 <= prompt <= 12 for prompt in usual.prompts)
    assert long.tokens.shape == (2, 40)
    assert torch.equal(batches.draw(0).mel, usual.mel)
    for tokens, speaker in zip(usual.tokens, usual.speaker, strict=True):
        assert set((tokens // 100).tolist()) == {0 if speaker[0] > 0 else 1}
    # the tone is told by the token, so mel that is not its token's shows
    tone = {kind: usual.mel[:, ::2][usual.tokens == kind].mean(0) for kind in usual.tokens.unique().tolist()}
    own = torch.stack([tone[int(kind)] for kind in usual.tokens.flatten()]).view(6, 24, 80)
    assert float((usual.mel[:, ::2] - own).abs().mean()) < 0.5 * float((usual.mel - usual.mel.mean()).abs().mean())


def test_velocity_at_the_served_times_is_the_networks_own(batches: FlowBatches) -> None:
    flow, batch = _flow(), batches.draw(0)
    who, _ = stage.attention(flow.config, batch)
    mask = who.doubled().mask
    assert mask is not None
    mean, condition, noise = (torch.randn(6, 48, 80) for _ in range(3))
    speaker = torch.randn(6, 80)
    fixed = torch.cat([mean, speaker[:, None].expand_as(mean), condition], -1)
    x = noise
    for start, stop in ((0.0, 0.5), (0.5, 1.0)):
        ends = torch.full((6,), start), torch.full((6,), stop)
        x = x + stage.velocity(flow.decoder.estimator, x, fixed, *ends, mask) / 2
    torch.testing.assert_close(x, flow.decoder(mean, speaker, condition, noise, mask), atol=1e-5, rtol=1e-4)


def test_two_steps_are_one_when_the_velocity_is_the_same_everywhere() -> None:
    flow = _flow()
    with torch.no_grad():
        for name, weight in flow.decoder.estimator.named_parameters():
            if name == "final_proj.weight":
                weight.zero_()
    x = torch.randn(2, 8, 80)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    made = stage.two_steps(flow.decoder.estimator, x, torch.randn(2, 8, 240), torch.tensor([0.0, 0.2]), torch.ones(2), mask)
    torch.testing.assert_close(made, torch.full((2, 8, 80), stage.MEL_MEAN))


def test_times_are_ordered_and_served_steps_are_frequent() -> None:
    torch.manual_seed(0)
    start, stop = stage.times(6000, 2000)
    assert bool((start <= stop).all())
    assert bool((start >= 0).all())
    assert bool((stop <= 1).all())
    assert torch.equal(start[2000:], stop[2000:])
    served = {(0.0, 0.5), (0.5, 1.0), (0.0, 1.0)}
    share = np.mean([pair in served for pair in zip(start[:2000].tolist(), stop[:2000].tolist(), strict=True)])
    assert 0.55 < share < 0.65


@pytest.mark.parametrize("split", [False, True])
def test_every_weight_is_reached_by_a_gradient(batches: FlowBatches, split: bool) -> None:
    flow = _flow()
    torch.stack(list(stage.losses(flow, batches.draw(0), split).values())).sum().backward()
    # a key's bias moves all scores of a query alike, which softmax does not see
    deaf = [name for name, weight in flow.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in deaf if "linear_k.bias" not in name] == []


def test_a_flow_that_is_gone_on_with_is_the_one_that_ships() -> None:
    shipped = stage.plain(_flow())
    with torch.no_grad():
        shipped.input_embedding.weight[5] += 1.0
    again = stage.continued(shipped)
    torch.testing.assert_close(stage.plain(again).state_dict(), shipped.state_dict(), atol=1e-5, rtol=1e-5)
    basis = again.get_parameter("input_embedding.parametrizations.weight.0.basis")
    assert float(basis.detach().abs().mean()) > 0.1, "codes share what their digits share"


def test_the_served_losses_are_of_what_is_served(batches: FlowBatches) -> None:
    flow, batch = _flow(), batches.draw(0)
    who, known = stage.attention(flow.config, batch)
    mask = who.doubled().mask
    with torch.no_grad():
        mean = flow.encode(F.pad(batch.tokens, (0, 3), value=-1), who)
        speaker = flow.spk_embed_affine_layer(F.normalize(batch.speaker, dim=1))
        made = flow.decoder(mean, speaker, batch.mel * known[..., None], torch.zeros_like(batch.mel), mask)
    off = (made - batch.mel).abs().mean(-1)
    weight = torch.where(known, stage.PROMPT_WEIGHT, 1.0)
    wanted = ((off * weight).sum(1) / weight.sum(1)).mean()
    listener = Recogniser(8).requires_grad_(False)
    found = stage.served_losses(flow, batch, listener)
    torch.testing.assert_close(found["mel"], wanted, atol=1e-5, rtol=1e-5)
    each = weight / weight.sum(1, keepdim=True) / len(weight)
    heard = stage.HEARD_WEIGHT * ear.distance(listener, made, batch.mel, each)
    torch.testing.assert_close(found["heard"], heard, atol=1e-5, rtol=1e-4)
    torch.stack(list(found.values())).sum().backward()
    deaf = [name for name, weight in flow.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in deaf if "linear_k.bias" not in name] == []


def test_a_frame_hears_no_chunk_after_its_own(batches: FlowBatches) -> None:
    flow = _flow()
    batch = batches.draw(0)
    prompt = batch.prompts[0]
    whole = stage.attention(flow.config, batch)[0]
    assert whole.mask is not None
    first_chunk = flow.config.chunk_tokens + prompt - flow.config.lookahead_tokens
    assert not whole.mask[0, 0, :first_chunk, first_chunk:].any()
    tokens = batch.tokens.clone()
    tokens[0, first_chunk + flow.config.lookahead_tokens :] = 7
    with torch.no_grad():
        before, after = (
            flow.encode(torch.nn.functional.pad(ids, (0, 3), value=-1), whole)[0] for ids in (batch.tokens, tokens)
        )
    torch.testing.assert_close(before[: 2 * first_chunk], after[: 2 * first_chunk])
    assert not torch.allclose(before[2 * first_chunk :], after[2 * first_chunk :])


def test_what_ships_is_what_was_trained(batches: FlowBatches) -> None:
    flow = _flow()
    shipped = stage.plain(flow)
    assert type(shipped.input_embedding) is torch.nn.Embedding
    assert set(shipped.state_dict()) == set(Flow(TINY).state_dict())
    assert torch.equal(flow.input_embedding.weight, shipped.input_embedding.weight)
    # codes that differ in one digit are near to each other before anything is learnt
    table = shipped.input_embedding.weight.detach()
    torch.testing.assert_close(table[0] - table[1], table[3] - table[4])
    assert not torch.equal(table[0], table[1])


def test_training_makes_the_loss_fall_and_streams(tones: Dataset, tmp_path: Path) -> None:
    net = speaker_net(tmp_path / "xvector.safetensors", tones, SMALL_NET)
    knobs = stage.FlowStage(steps=60, warm_up=5, learning_rate=2e-2, usual=ROWS, long=LONG_ROWS, save_every=30)
    before = _distance(stage.plain(_flow()), tones)
    trained = stage.train(tones, tones, net, tmp_path / "flow", TINY, knobs)
    after = _distance(trained, tones)
    assert after < 0.7 * before
    resumed = stage.train(tones, tones, net, tmp_path / "flow", TINY, replace(knobs, steps=61))
    assert not torch.equal(resumed.encoder_proj.weight, trained.encoder_proj.weight)
    loaded = stage.load(tmp_path / "flow", TINY)
    torch.testing.assert_close(loaded.state_dict(), resumed.state_dict())


def test_a_flow_goes_on_towards_what_it_is_served_for(tones: Dataset, tmp_path: Path) -> None:
    net = speaker_net(tmp_path / "xvector.safetensors", tones, SMALL_NET)
    cold = replace(TINY, temperature=0.0)
    torch.manual_seed(0)
    begun = stage.plain(stage.trainable(cold))
    knobs = replace(stage.CONTINUED, steps=12, warm_up=2, learning_rate=3e-2, usual=ROWS, long=LONG_ROWS, mean=None)
    start = stage.Continuation(begun, Recogniser(8).requires_grad_(False))
    assert _distance(stage.train(tones, tones, net, tmp_path / "on", cold, knobs, start), tones) < 0.9 * _distance(begun, tones)


def test_the_speaker_net_tells_voices_apart_and_is_kept(tones: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "xvector.safetensors"
    net, again = speaker_net(path, tones, SMALL_NET), speaker_net(path, tones, SMALL_NET)
    torch.testing.assert_close(net.state_dict(), again.state_dict())
    chooser = np.random.default_rng(0)
    one, other = (F.normalize(embeddings(net, tones, speaker, 6, chooser), dim=1) for speaker in (0, 1))
    assert float((one @ one.T).mean()) > float((one @ other.T).mean()) + 0.2


def test_temperature_scales_the_noise_of_the_first_step() -> None:
    warm, cold = (Flow(replace(TINY, temperature=temperature)).eval() for temperature in (0.5, 0.0))
    cold.load_state_dict(warm.state_dict())
    plain_flow = Flow(TINY).eval()
    plain_flow.load_state_dict(warm.state_dict())
    tokens = torch.arange(9)[None]
    prompt = FlowPrompt(torch.arange(5), torch.zeros(10, 80), torch.ones(192))
    one, other = torch.randn(2, 1, 80, 28)
    assert torch.equal(cold.offline_chunked(tokens, prompt, one), cold.offline_chunked(tokens, prompt, other))
    assert torch.equal(warm.offline_chunked(tokens, prompt, one), plain_flow.offline_chunked(tokens, prompt, 0.5 * one))
    assert not torch.equal(warm.offline_chunked(tokens, prompt, one), warm.offline_chunked(tokens, prompt, other))


def _flow() -> Flow:
    torch.manual_seed(0)
    return stage.trainable(TINY)


def _distance(flow: Flow, tones: Dataset) -> float:
    """Of mel made as at run time, in pieces, to the recording's."""
    first, count = int(tones.offsets[2]), int(tones.lengths[2])
    voice, prompt = int(tones.offsets[0]), int(tones.lengths[0])

    def rows(begin: int, length: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(tones.tokens(begin, length)), torch.from_numpy(tones.mel(begin, length))

    tokens, mel = rows(first, count)
    generator = torch.Generator().manual_seed(0)
    noise = [FixedNoise(torch.randn(80, 2 * length, generator=generator)) for length in (prompt, count)]
    state = flow.open(flow.prepare(FlowPrompt(*rows(voice, prompt), torch.ones(192)), noise[0]), noise[1])
    made = flow.step([state], [tokens[:9]], [False]) + flow.step([state], [tokens[9:]], [True])
    return float((torch.cat(made, 1).T - mel).abs().mean())
