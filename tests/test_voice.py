"""The voice: made from files, saved, shipped, and refused when damaged."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save

import cf_agents
from cf_agents.config import ModelConfig, T3Config
from cf_agents.engines.base import Conditioning
from cf_agents.errors import VoiceError
from cf_agents.voice import Voice
from tests.goldens.reference_signal import signal
from tests.models.reference.nets import TINY, tiny_reference

RATE = 24000
ARRAYS = ("flow_tokens", "flow_mel", "xvector")


@cache
def made_voice() -> Voice:
    return Voice.from_audio(signal("short", RATE), tiny_reference(), name="ann", sample_rate=RATE)


@cache
def plain_voice() -> Voice:
    """A voice of random numbers: what needs no networks is tested without."""
    random = np.random.RandomState(0)
    return Voice(
        Conditioning(
            random.standard_normal(256).astype(np.float32), random.randint(0, 6561, 150).astype(np.int64), exaggeration=0.7
        ),
        random.randint(0, 6561, 20).astype(np.int64),
        random.standard_normal((40, 80)).astype(np.float32),
        random.standard_normal(192).astype(np.float32),
        "Zoë, 2 m",
        {"source": "zoë.wav", "seconds": "4.13"},
    )


def assert_same(one: Voice, other: Voice) -> None:
    assert one.conditioning.key == other.conditioning.key
    assert one.conditioning.exaggeration == other.conditioning.exaggeration
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.name, dict(one.metadata)) == (other.name, dict(other.metadata))


def test_made_from_samples() -> None:
    voice = made_voice()
    assert voice.name == "ann"
    assert voice.conditioning.exaggeration == 0.5
    assert dict(voice.metadata) == {
        "source": "",
        "seconds": "4.13",
        "gain_db": "0",
        "model": "tiny",
        "cf_agents": cf_agents.__version__,
    }
    heard = tiny_reference().analyse(signal("short", RATE), RATE)
    assert np.array_equal(voice.conditioning.speaker, heard.speaker)
    assert np.array_equal(voice.conditioning.prompt_tokens, heard.prompt_tokens)
    for name in ARRAYS:
        assert np.array_equal(getattr(voice, name), getattr(heard, name))
    voice.check(TINY)


def test_wav_flac_and_mp3_of_one_recording_agree(tmp_path: Path) -> None:
    made = {}
    pcm = np.rint(signal("short", RATE) * 32767).astype(np.int16)
    for suffix in ("wav", "flac", "mp3"):
        path = tmp_path / f"ann.{suffix}"
        soundfile.write(path, pcm, RATE)
        made[suffix] = Voice.from_audio(path, tiny_reference())
        assert made[suffix].name == "ann"
        assert made[suffix].metadata["source"] == path.name
    assert np.array_equal(made["wav"].flow_mel, made["flac"].flow_mel)
    assert made["wav"].conditioning.key == made["flac"].conditioning.key
    wav, mp3 = made["wav"], made["mp3"]
    assert float(wav.conditioning.speaker @ mp3.conditioning.speaker) > 0.999
    assert wav.flow_mel.shape == mp3.flow_mel.shape
    # Where a band is all but empty a coder leaves it out.
    loud = wav.flow_mel > -6
    assert np.abs(wav.flow_mel - mp3.flow_mel)[loud].mean() < 0.15


def test_bad_recordings_are_refused_before_the_networks_hear_them() -> None:
    with pytest.raises(VoiceError, match="silent"):
        Voice.from_audio(np.zeros(4 * RATE, np.float32), tiny_reference(), sample_rate=RATE)
    with pytest.raises(VoiceError, match=r"exaggeration of 3\.0 is not between 0 and 2"):
        Voice.from_audio(signal("short", RATE), tiny_reference(), sample_rate=RATE, exaggeration=3.0)


def test_saved_and_loaded(tmp_path: Path) -> None:
    for voice in (plain_voice(), made_voice()):
        voice.save(tmp_path / "v.safetensors")
        assert_same(Voice.load(tmp_path / "v.safetensors"), voice)
        assert_same(Voice.load(str(tmp_path / "v.safetensors")), voice)
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


def test_equal_voices_are_equal_bytes() -> None:
    assert len({plain_voice().to_bytes() for _ in range(20)}) == 1
    assert Voice.from_bytes(plain_voice().to_bytes()).to_bytes() == plain_voice().to_bytes()
    turned = dataclasses.replace(plain_voice(), metadata=dict(reversed(dict(plain_voice().metadata).items())))
    assert turned.to_bytes() == plain_voice().to_bytes()
    again = Voice.from_audio(signal("short", RATE), tiny_reference(), name="ann", sample_rate=RATE)
    assert again.to_bytes() == made_voice().to_bytes()


def test_ships_to_another_process() -> None:
    assert_same(pickle.loads(pickle.dumps(plain_voice())), plain_voice())
    code = (
        "import sys; from cf_agents.voice import Voice; "
        "voice = Voice.from_bytes(sys.stdin.buffer.read()); assert 'torch' not in sys.modules; print(voice.conditioning.key)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=plain_voice().to_bytes(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == plain_voice().conditioning.key


def test_nothing_about_it_can_be_changed() -> None:
    source = np.ones(192, np.float32)
    voice = dataclasses.replace(plain_voice(), xvector=source)
    source[0] = 9.0
    assert voice.xvector[0] == 1.0
    told = voice.conditioning
    for array in (voice.flow_tokens, voice.flow_mel, voice.xvector, told.speaker, told.prompt_tokens):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        voice.name = "eve"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        voice.metadata["source"] = "x"  # pyright: ignore[reportIndexIssue]
    assert len({voice, plain_voice(), plain_voice()}) == 2


def test_exaggeration() -> None:
    louder = plain_voice().with_exaggeration(1.5)
    assert louder.conditioning.exaggeration == 1.5
    assert plain_voice().conditioning.exaggeration == 0.7
    assert louder.conditioning.key != plain_voice().conditioning.key
    assert np.array_equal(louder.flow_mel, plain_voice().flow_mel)
    for wrong in (-0.1, 2.1, float("nan")):
        with pytest.raises(VoiceError, match="exaggeration"):
            plain_voice().with_exaggeration(wrong)


def test_a_voice_of_other_sizes_does_not_fit() -> None:
    plain_voice().check(ModelConfig())
    small = ModelConfig(name="pocket", t3=T3Config(speaker_dim=64, prompt_tokens=100))
    with pytest.raises(VoiceError, match=r"does not fit pocket: speaker is 256 wide where 64 is needed; 150 prompt tokens"):
        plain_voice().check(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow_mel": np.zeros((39, 80), np.float32)}, "39 frames for 20 flow_tokens"),
        ({"flow_mel": np.zeros((40, 80))}, r"flow_mel is float64 \[40, 80\]; it must be float32"),
        ({"flow_tokens": np.full(20, 6561)}, "speech tokens are 0 to 6560"),
        ({"flow_tokens": np.full(20, -1)}, "ids from -1"),
        ({"flow_tokens": np.zeros(0, np.int64)}, "not empty"),
        ({"xvector": np.full(192, np.nan, np.float32)}, "192 values that are not finite"),
        ({"xvector": np.zeros((1, 192), np.float32)}, "xvector is"),
        ({"conditioning": Conditioning(np.zeros(0, np.float32), np.zeros(1, np.int64))}, "speaker is"),
        ({"conditioning": Conditioning(np.zeros(2, np.float32), np.zeros(1, np.int64), 7.0)}, "exaggeration of 7"),
        ({"name": ""}, "cannot be named"),
        ({"name": "a\nb"}, "cannot be named"),
    ],
)
def test_parts_must_belong_together(change: dict[str, object], message: str) -> None:
    with pytest.raises(VoiceError, match=message):
        dataclasses.replace(plain_voice(), **change)  # pyright: ignore[reportArgumentType]


def rewritten(*, about: object = None, drop: str = "", **tensors: np.ndarray) -> bytes:
    """A well-formed safetensors file that is not a well-formed voice."""
    told = plain_voice().conditioning
    parts: dict[str, np.ndarray] = {
        "speaker": told.speaker,
        "prompt_tokens": told.prompt_tokens,
        **{name: getattr(plain_voice(), name) for name in ARRAYS},
        **tensors,
    }
    parts.pop(drop, None)
    good = {"version": 1, "name": "x", "exaggeration": 0.5, "metadata": {}}
    text = about if isinstance(about, str) else json.dumps(good if about is None else {**good, **dict(about)})  # pyright: ignore
    return save(parts, {"cf_agents.voice": text})


def test_rewritten_is_a_voice_when_nothing_is_changed() -> None:
    assert Voice.from_bytes(rewritten()).name == "x"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a voice: no whole safetensors file"),
        (b"\x00" * 7, "not a voice"),
        (b"RIFF" + b"\x00" * 100, "not a voice"),
        (struct.pack("<Q", 2**60) + b"{}", "not a voice"),
        (struct.pack("<Q", 4) + b"{bad", "not a voice"),
        (save({"a": np.zeros(1)}), "is a safetensors file but not a voice"),
        (save({"a": np.zeros(1)}, {"format": "pt"}), "is a safetensors file but not a voice"),
        (rewritten(drop="xvector"), r"missing \['xvector'\], unexpected \[\]"),
        (rewritten(extra=np.zeros(1)), r"missing \[\], unexpected \['extra'\]"),
        (rewritten(speaker=np.zeros(256)), "speaker is stored as F64, not F32"),
        (rewritten(speaker=np.zeros(256, np.float16)), "speaker is stored as F16"),
        (rewritten(flow_tokens=np.zeros(20, np.int32)), "flow_tokens is stored as I32"),
        (rewritten(flow_tokens=np.zeros(19, np.int64)), "damaged: flow_mel has 40 frames for 19"),
        (rewritten(flow_tokens=np.full(20, 6561)), "damaged: flow_tokens holds ids"),
        (rewritten(xvector=np.full(192, np.inf, np.float32)), "damaged: xvector has 192 values"),
        (rewritten(about="{"), "description is not readable"),
        (rewritten(about="[]"), "description is not readable"),
        (rewritten(about={"version": 2}), "format version 2, this cf_agents reads 1; update"),
        (rewritten(about={"version": 0}), "description is not readable"),
        (rewritten(about={"name": 3}), "description is not readable"),
        (rewritten(about={"exaggeration": "loud"}), "description is not readable"),
        (rewritten(about={"exaggeration": 5}), "damaged: An exaggeration of 5"),
        (rewritten(about={"metadata": {"a": 1}}), "description is not readable"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(VoiceError, match=message) as caught:
        Voice.load(path)
    assert str(path) in str(caught.value)


def test_every_cut_of_a_file_is_refused() -> None:
    data = plain_voice().to_bytes()
    for length in range(0, len(data), 97):
        with pytest.raises(VoiceError, match="not a voice"):
            Voice.from_bytes(data[:length])


def test_flipped_bytes_never_raise_anything_else() -> None:
    data = bytearray(plain_voice().to_bytes())
    random = np.random.RandomState(1)
    for _ in range(300):
        place, value = random.randint(0, 900), random.randint(0, 256)
        kept, data[place] = data[place], value
        try:
            Voice.from_bytes(bytes(data))
        except VoiceError:
            pass
        finally:
            data[place] = kept


def test_paths_that_cannot_be_a_voice(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="There is no voice file"):
        Voice.load(tmp_path / "gone.safetensors")
    with pytest.raises(VoiceError, match="cannot be read"):
        Voice.load(tmp_path)
    with pytest.raises(VoiceError, match=r"is a recording, not a voice; make a voice of it with Voice\.from_audio"):
        Voice.load(tmp_path / "ann.WAV")
    with open(tmp_path / "big.safetensors", "wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(VoiceError, match="far more than a voice"):
        Voice.load(tmp_path / "big.safetensors")
    with pytest.raises(VoiceError, match="Cannot write the voice"):
        plain_voice().save(tmp_path / "no" / "v.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(VoiceError, match="Cannot write the voice"):
        plain_voice().save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.safetensors", "folder"]
