"""What every engine must do. A back-end joins by adding itself to `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cf_agents.engines.base import Engine, Prefix, Row
from cf_agents.errors import EngineFull, TextError
from cf_agents.models.t3 import T3, rotary_table
from tests.small import (
    ALIGNED,
    SMALL,
    prefix,
    small_engine,
    small_flashinfer_engine,
    small_mlx_engine,
    small_paged_engine,
    small_t3,
)

MakeEngine = Callable[..., Engine]
BACKENDS: dict[str, MakeEngine] = {
    "dense": small_engine,
    "paged": small_paged_engine,
    "flashinfer": small_flashinfer_engine,
    "mlx": small_mlx_engine,
}
MASK = SMALL.mask_id


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest) -> MakeEngine:
    return BACKENDS[request.param]


@pytest.fixture(scope="module")
def t3() -> T3:
    return small_t3()


def block(seed: int, size: int = 16) -> list[int]:
    return np.random.RandomState(seed).randint(0, 6561, size).tolist()


def half_open(seed: int, size: int = 16) -> list[int]:
    return [token if n % 3 else MASK for n, token in enumerate(block(seed, size))]


def whole(t3: T3, what: Prefix, blocks: list[list[int]]) -> Tensor:
    """Logits of the last of `blocks` from one forward over the whole sequence under an explicit mask, nothing cached."""
    return whole_forward(t3, what, blocks)[0]


def whole_places(t3: T3, what: Prefix, blocks: list[list[int]]) -> Tensor:
    """Text places of the last of `blocks`, from that forward."""
    return whole_forward(t3, what, blocks)[1]


@torch.inference_mode()
def whole_forward(t3: T3, what: Prefix, blocks: list[list[int]]) -> tuple[Tensor, Tensor]:
    null = what.conditioning is None
    text = t3.embed_text(torch.tensor(what.text_ids))
    if what.conditioning is None:
        spoken = torch.zeros(SMALL.conditioning_length, SMALL.hidden_size)
    else:
        given = what.conditioning
        spoken = t3.embed_conditioning(torch.tensor(given.speaker), torch.tensor(given.prompt_tokens), given.exaggeration)
    parts = [spoken, torch.zeros_like(text) if null else text, t3.embed_speech(torch.tensor([6561]), torch.tensor([0]))]
    start = sum(len(part) for part in parts)
    group = [*range(start)]
    for n, ids in enumerate(blocks):
        parts.append(t3.embed_speech(torch.tensor(ids), torch.arange(len(ids))))
        group += [start + n] * len(ids)
    seen = torch.tensor(group)[None] <= torch.tensor(group)[:, None]
    x = torch.cat(parts)
    cos, sin = rotary_table(SMALL, len(x), x.device, x.dtype)
    scores: list[Tensor] = []
    told = slice(SMALL.conditioning_length, SMALL.conditioning_length + len(what.text_ids))

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for head in (head for at, head in ALIGNED.alignment_heads if at == layer):
            scores.append(q[-len(blocks[-1]) :, head] @ k[told, head].T / SMALL.head_dim**0.5)
        q, k, v = (side.transpose(0, 1) for side in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1).flatten(1)

    hidden = t3.backbone(x, cos, sin, attend)
    share = torch.stack(scores).mean(0).softmax(-1)
    return t3.head(hidden[-len(blocks[-1]) - 1 : -1]), (share * torch.arange(len(what.text_ids))).sum(-1)


def close_to(found: Tensor, wanted: Tensor, bound: float = 5e-5) -> None:
    assert float((found - wanted).abs().max()) < bound


@pytest.mark.parametrize("null", [False, True], ids=["conditional", "null"])
def test_blocks_score_as_in_one_whole_forward(make: MakeEngine, t3: T3, null: bool) -> None:
    engine = make()
    what = prefix(23).null() if null else prefix(23)
    (row,) = engine.open([what])
    clean: list[list[int]] = []
    for n in range(4):
        for seed in (n, 50 + n):
            ids = half_open(seed)
            (found,) = engine.score([row], torch.tensor([ids])).logits
            close_to(found, whole(t3, what, [*clean, ids]))
        clean.append(block(100 + n))
        engine.commit([row], [clean[-1]])
        assert row.length == SMALL.conditioning_length + 23 + 2 + 1 + 16 * len(clean)


def test_scoring_leaves_no_trace(make: MakeEngine) -> None:
    engine = make()
    rows = engine.open([prefix(23)])
    engine.commit(rows, [block(1)])
    first = engine.score(rows, torch.tensor([half_open(2)])).logits
    for seed in range(5):
        engine.score(rows, torch.tensor([block(seed)]))
    close_to(engine.score(rows, torch.tensor([half_open(2)])).logits, first, 1e-6)


def test_ragged_rows_score_as_they_do_alone(make: MakeEngine, t3: T3) -> None:
    """Rows of other lengths, blocks behind and block sizes, some with a block held back, in an order unlike the slots'."""
    engine = make()
    whats = [prefix(5, 1, voice=1), prefix(90, 2, voice=2), prefix(41, 3).null(), prefix(5, 4, voice=1)]
    rows = engine.open(whats)
    pasts: list[list[list[int]]] = [[block(10)], [], [block(12), block(13)], [block(14), block(15), block(16)]]
    for n, past in enumerate(pasts):
        for ids in past[:-1]:
            engine.commit([rows[n]], [ids])
            engine.score([rows[n]], torch.tensor([half_open(0)]))
        if past:
            engine.commit([rows[n]], [past[-1]])
    opens = [half_open(20), half_open(21, 7), half_open(22, 12), half_open(23)]
    order = [2, 0, 3, 1]
    tokens = torch.tensor([opens[n] + [-1] * (16 - len(opens[n])) for n in order])
    found = engine.score([rows[n] for n in order], tokens).logits
    for at, n in enumerate(order):
        close_to(found[at, : len(opens[n])], whole(t3, whats[n], [*pasts[n], opens[n]]))


def test_two_commits_without_a_score_between(make: MakeEngine, t3: T3) -> None:
    engine = make()
    rows = engine.open([prefix(9)])
    for seed in (1, 2, 3):
        engine.commit(rows, [block(seed)])
    found = engine.score(rows, torch.tensor([half_open(4)])).logits
    close_to(found[0], whole(t3, prefix(9), [block(1), block(2), block(3), half_open(4)]))


def test_what_a_voice_or_a_length_shares_is_the_same_the_second_time(make: MakeEngine, t3: T3) -> None:
    engine = make()
    for seed in (1, 2):
        what = prefix(17, seed, voice=5)
        for each in (what, what.null()):
            rows = engine.open([each])
            close_to(engine.score(rows, torch.tensor([half_open(3)])).logits[0], whole(t3, each, [half_open(3)]))
            engine.close(rows[0])


def test_rows_are_given_back_and_used_again(make: MakeEngine, t3: T3) -> None:
    engine = make(max_rows=3)
    rows: list[Row] = engine.open([prefix(5), prefix(6), prefix(7)])
    with pytest.raises(EngineFull, match="0 of 3 are free"):
        engine.open([prefix(8)])
    engine.close(rows[1])
    engine.close(rows[1])
    assert engine.rows_free == 1
    with pytest.raises(EngineFull):
        engine.open([prefix(8), prefix(9)])
    assert engine.rows_free == 1
    (row,) = engine.open([prefix(60).null()])
    close_to(engine.score([row], torch.tensor([half_open(1)])).logits[0], whole(t3, prefix(60).null(), [half_open(1)]))


def test_a_prefix_that_leaves_no_room_is_refused_and_nothing_is_kept(make: MakeEngine) -> None:
    engine = make(max_length=128)
    with pytest.raises(TextError, match="split"):
        engine.open([prefix(5), prefix(80)])
    with pytest.raises(TextError, match="Split"):
        engine.open([prefix(300)])
    assert engine.rows_free == 8
    (row,) = engine.open([prefix(5)])
    assert row.room == 128 - row.length


def test_a_row_can_be_filled_to_its_last_place_beside_another(make: MakeEngine, t3: T3) -> None:
    engine = make(max_length=90)
    whats = [prefix(5, 1), prefix(5, 2)]
    rows = engine.open(whats)
    room = rows[0].room
    engine.commit(rows, [block(1), block(2)])
    engine.commit(rows, [block(3), block(4)])
    ids = half_open(5, room - 32)
    padded = torch.tensor([ids + [-1] * 16] * 2)
    found = engine.score(rows, padded).logits
    for n in range(2):
        close_to(found[n, : len(ids)], whole(t3, whats[n], [block(1 + n), block(3 + n), ids]))


def test_half_precision_stays_near(make: MakeEngine, t3: T3) -> None:
    engine = make(dtype=torch.bfloat16)
    whats = [prefix(30), prefix(30).null()]
    rows = engine.open(whats)
    engine.commit(rows, [block(1)] * 2)
    found = engine.score(rows, torch.tensor([half_open(2)] * 2)).logits
    for n, what in enumerate(whats):
        wanted = whole(t3, what, [block(1), half_open(2)])
        assert float((found[n] - wanted).pow(2).mean().sqrt() / wanted.std()) < 0.03


def test_places_are_where_the_aligned_heads_of_a_whole_forward_look(make: MakeEngine, t3: T3) -> None:
    """Alone and among rows of other texts, blocks behind and block sizes, null rows between, in an order unlike the slots'."""
    engine = make(config=ALIGNED)
    whats = [prefix(5, 1, voice=1), prefix(90, 2, voice=2), prefix(41, 3).null(), prefix(41, 3)]
    rows = engine.open(whats)
    pasts: list[list[list[int]]] = [[block(10)], [], [block(12)], [block(12), block(13)]]
    for row, past in zip(rows, pasts, strict=True):
        for ids in past:
            engine.commit([row], [ids])
    opens = [half_open(20), half_open(21, 7), half_open(22, 12), half_open(23)]
    wanted = [whole_places(t3, whats[n], [*pasts[n], opens[n]]) for n in range(4)]
    order = [2, 0, 3, 1]
    tokens = torch.tensor([opens[n] + [-1] * (16 - len(opens[n])) for n in order])
    together = engine.score([rows[n] for n in order], tokens).places
    assert together is not None
    assert together.dtype == torch.float32
    assert bool(together.isfinite().all())
    for at, n in enumerate(order):
        if whats[n].conditioning is not None:
            close_to(together[at, : len(opens[n])], wanted[n], 5e-4)
            alone = engine.score([rows[n]], torch.tensor([opens[n]])).places
            assert alone is not None
            close_to(alone[0], wanted[n], 5e-4)
    assert max(float(each.std()) for each in wanted) > 0.5, "places that do not differ show nothing"


def test_a_row_that_takes_anothers_slot_has_a_text_of_its_own(make: MakeEngine, t3: T3) -> None:
    """The two are alike in length, one by its text and one by a block more."""
    engine = make(config=ALIGNED, max_rows=1)
    for text, past in ((5, [block(1)]), (21, [])):
        (row,) = engine.open([prefix(text)])
        for ids in past:
            engine.commit([row], [ids])
            engine.score([row], torch.tensor([half_open(9)]))
        places = engine.score([row], torch.tensor([half_open(2)])).places
        assert places is not None
        close_to(places[0], whole_places(t3, prefix(text), [*past, half_open(2)]), 5e-4)
        engine.close(row)


def test_an_engine_without_aligned_heads_has_no_places(make: MakeEngine) -> None:
    engine = make()
    assert engine.score(engine.open([prefix(5)]), torch.tensor([half_open(1)])).places is None
