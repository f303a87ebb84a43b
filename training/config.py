"""Sizes of the pocket model, and of what only its training needs. Imports no tensor library."""

from __future__ import annotations

from dataclasses import dataclass

from cf_agents.config import (
    CODEC_VOCAB,
    DecodeParams,
    FlowConfig,
    HiFTConfig,
    ModelConfig,
    SpeechTokenizerConfig,
    T3Config,
    VoiceEncoderConfig,
    XVectorConfig,
)
from cf_agents.text.segment import SegmentPolicy

POCKET = ModelConfig(
    name="pocket",
    t3=T3Config(
        hidden_size=256,
        intermediate_size=512,
        num_layers=6,
        num_heads=4,
        head_dim=64,
        rope_theta=10_000.0,
        backbone_vocab=1,
        text_vocab=48,
        max_text_tokens=448,
        start_text=3,
        stop_text=0,
        # No ids but the codec's, start and stop: the two tables are half of the file.
        speech_vocab=CODEC_VOCAB + 2,
        max_speech_tokens=124,
        perceiver_queries=8,
        perceiver_heads=4,
        prompt_tokens=50,
        alignment_heads=((1, 0), (2, 0)),
    ),
    flow=FlowConfig(
        mode="chunk",
        window_tokens=64,
        # 80 channels are too few to carry the noise of 80 bins back out of the mel: none is put in
        temperature=0.0,
        encoder_dim=128,
        encoder_heads=4,
        encoder_ffn=256,
        encoder_blocks=2,
        up_encoder_blocks=1,
        channels=80,
        estimator_heads=2,
        estimator_head_dim=40,
        blocks_per_stage=1,
        mid_stages=2,
    ),
    hift=HiFTConfig(
        base_channels=128,
        # no espeak-ng voice goes lower, and the small predictor is never exactly 0
        voiced_threshold_hz=50.0,
        upsample_rates=(8, 5),
        upsample_kernels=(16, 11),
        istft_fft=48,
        istft_hop=12,
        resblock_kernels=(3, 7),
        resblock_dilations=((1, 3), (1, 3)),
        source_kernels=(7, 7),
        source_dilations=((1,), (1,)),
        f0_channels=64,
        # two stages look less far than three: pieces are 84 dB nearer to the whole than the whole is loud
        left_frames=8,
        right_frames=5,
    ),
    voice_encoder=VoiceEncoderConfig(hidden_size=64, num_layers=2),
    xvector=XVectorConfig(growth_rate=4, init_channels=16, head_channels=8),
    speech_tokenizer=SpeechTokenizerConfig(mel_bins=64, width=144, heads=4, layers=3),
    # as many as it takes to be understood, and no second row: see the figures in docs/pocket.md
    decoding=DecodeParams(steps=7, temperature=0.0, early=0.0, guidance=0.0, position_noise=0.0),
    # longer segments were few in training: their text is followed less surely
    segments=SegmentPolicy(merged_chars=96, max_chars=128),
)


@dataclass(frozen=True)
class Speaker:
    """One espeak-ng voice that the data set holds."""

    name: str
    variant: str
    """espeak-ng voice name."""
    rate: int = 160
    """Words per minute."""
    pitch: int = 50
    pitch_range: int = 40


SPEAKERS = (Speaker("default", "en-us+f2"), Speaker("male", "en-us+m3"))
"""The voices that ship, by the index that a data set knows them by; the first is the one spoken with when none is asked for."""
