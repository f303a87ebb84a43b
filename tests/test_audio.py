"""Sound at the edges: chunks, files, resampling and the WAV writer."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cf_agents.audio import AudioChunk, WavWriter, Word, first_audible, read_audio, read_channels, resample, to_s16le
from cf_agents.encoding import Encoding, decode, encode
from cf_agents.errors import AudioError, ConfigError

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)).astype(np.float32)


class Pipe(io.RawIOBase):
    """A raw pipe: cannot seek, and takes at most 1000 bytes a time."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(memoryview(data)[:1000])  # pyright: ignore[reportArgumentType]
        self.data += piece
        return len(piece)


def chunk(pcm: bytes, sample_rate: int = 24000) -> AudioChunk:
    return AudioChunk(pcm, sample_rate, 0, (), 0.0, False)


def test_s16le_rounds_and_clips() -> None:
    steps = np.array([0.0, 0.4, 0.6, -0.6, 1.0]) / 32767.0
    assert np.frombuffer(to_s16le(steps), "<i2").tolist() == [0, 0, 1, -1, 1]
    loud = np.array([1.0, 1.5, -1.0, -1.5, -9.0], np.float32)
    assert np.frombuffer(to_s16le(loud), "<i2").tolist() == [32767, 32767, -32767, -32768, -32768]
    assert to_s16le(np.zeros(0, np.float32)) == b""


def test_s16le_refuses_what_is_not_finite() -> None:
    with pytest.raises(AudioError, match="2 of 3 samples are not finite"):
        to_s16le(np.array([0.0, np.nan, np.inf], np.float32))


def test_the_first_audible_sample_is_over_minus_sixty_decibels() -> None:
    for loud in (33, -33, -32768):
        assert first_audible(np.array([0, 32, -32, loud, 0], "<i2").tobytes()) == 3
    assert first_audible(np.array([32, -32], "<i2").tobytes()) is None
    assert first_audible(b"") is None


def test_chunk_knows_its_length_and_samples() -> None:
    word = Word("Hi", 0.0, 0.2, 0, 2)
    made = AudioChunk(to_s16le(TONE[:2400]), 24000, 3, (word,), 1.5, True)
    assert made.duration_s == 0.1
    assert made.samples.dtype == np.int16
    assert made.samples.shape == (2400,)
    assert not made.samples.flags.writeable
    assert made == AudioChunk(to_s16le(TONE[:2400]), 24000, 3, (word,), 1.5, True)
    with pytest.raises(AttributeError):
        made.last = False  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("encoding", "width", "bound"), [("f32le", 4, 0.0), ("mulaw", 1, 0.02), ("alaw", 1, 0.02)])
def test_chunk_of_any_encoding_knows_its_length_and_samples(encoding: Encoding, width: int, bound: float) -> None:
    made = AudioChunk(encode(TONE[:800], encoding), 8000, 0, (), 0.0, True, encoding)
    assert len(made.pcm) == 800 * width
    assert made.duration_s == 0.1
    assert (made.samples.dtype, made.floats.dtype) == (np.int16, np.float32)
    np.testing.assert_allclose(made.floats, TONE[:800], atol=bound)
    np.testing.assert_allclose(made.samples / 32768, made.floats, atol=2e-5)


@pytest.mark.parametrize(("suffix", "bound"), [("wav", 5e-5), ("flac", 5e-5), ("ogg", 0.05), ("mp3", 0.05)])
def test_reads_the_usual_files(tmp_path: Path, suffix: str, bound: float) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([TONE, TONE], axis=1), 24000)
    samples, rate = read_audio(path)
    assert rate == 24000
    assert samples.dtype == np.float32
    assert samples.shape == (24000,)
    assert np.abs(samples - TONE)[1200:-1200].max() < bound


def test_channels_are_averaged_and_the_end_can_be_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "two.wav", np.stack([TONE, np.zeros_like(TONE)], axis=1), 24000)
    channels, _ = read_channels(tmp_path / "two.wav", max_seconds=0.25)
    assert channels.shape == (6000, 2)
    mono, _ = read_audio(tmp_path / "two.wav")
    np.testing.assert_allclose(mono, TONE / 2, atol=2e-5)
    with open(tmp_path / "two.wav", "rb") as file:
        assert np.array_equal(read_audio(file)[0], mono)


def test_what_is_not_audio_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"no audio file .*nowhere\.wav"):
        read_audio(tmp_path / "nowhere.wav")
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(AudioError, match=r"text\.wav' cannot be read as audio"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(AudioError, match="the given file object"):
        read_audio(io.BytesIO(b"not a sound"))


@pytest.mark.parametrize(("rate_in", "rate_out"), [(24000, 16000), (44100, 24000), (8000, 24000), (48000, 24000)])
def test_resampling_keeps_time_and_tone(rate_in: int, rate_out: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate_in + 7) / rate_in).astype(np.float32)
    found = resample(tone, rate_in, rate_out)
    assert found.dtype == np.float32
    assert found.shape == (-(-len(tone) * rate_out // rate_in),)
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(found)) / rate_out)
    assert np.abs(found - wanted)[200:-200].max() < 1e-3


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    assert resample(TONE, 24000, 24000) is TONE
    with pytest.raises(AudioError, match="positive rates"):
        resample(TONE, 0, 24000)


def test_wav_file_has_its_length(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with WavWriter.create(path, 24000) as writer:
        writer.write(chunk(to_s16le(TONE[:1000])))
        writer.write(to_s16le(TONE[1000:5000]))
        writer.write(TONE[5000:])
        assert writer.duration_s == 1.0
    writer.close()
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 24000, 24000)
        assert file.readframes(24000) == to_s16le(TONE)
    assert path.stat().st_size == 44 + 48000


@pytest.mark.parametrize(
    ("encoding", "subtype", "tag"), [("s16le", "PCM_16", 1), ("f32le", "FLOAT", 3), ("mulaw", "ULAW", 7), ("alaw", "ALAW", 6)]
)
@pytest.mark.parametrize("seekable", [True, False])
def test_wav_of_any_encoding_is_read_by_others(encoding: Encoding, subtype: str, tag: int, seekable: bool) -> None:
    file = io.BytesIO() if seekable else Pipe()
    piece = encode(TONE[:3000], encoding)
    with WavWriter(file, 8000, encoding=encoding) as writer:  # pyright: ignore[reportArgumentType]
        writer.write(AudioChunk(piece, 8000, 0, (), 0.0, True, encoding))
        writer.write(piece)
        writer.write(TONE[:3000])
        assert writer.duration_s == 9000 / 8000
    data = file.getvalue() if isinstance(file, io.BytesIO) else file.data
    assert int.from_bytes(data[20:22], "little") == tag
    if seekable:
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
    if encoding != "s16le":
        # What is not PCM names the size of its extension and its number of samples.
        at = data.index(b"fact")
        assert (at, data[36:38], int.from_bytes(data[at + 8 : at + 12], "little")) == (
            38,
            b"\0\0",
            9000 if seekable else 2**32 - 1,
        )
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        assert (sound.samplerate, sound.channels, sound.subtype, sound.frames) == (8000, 1, subtype, 9000)
        np.testing.assert_array_equal(sound.read(6000, dtype="float32"), np.tile(decode(piece, encoding), 2))
        np.testing.assert_allclose(sound.read(dtype="float32"), decode(piece, encoding), atol=4e-5)


def test_wav_may_begin_inside_a_file_that_stays_open() -> None:
    file = io.BytesIO()
    file.write(b"before")
    with WavWriter(file, 24000) as writer:
        writer.write(TONE)
    file.write(b"after")
    data = file.getvalue()
    assert data.startswith(b"beforeRIFF")
    assert data.endswith(b"after")
    with wave.open(io.BytesIO(data[6:-5])) as inner:
        assert inner.readframes(99999) == to_s16le(TONE)


def test_unfinished_wav_still_plays(tmp_path: Path) -> None:
    file = io.BytesIO()
    writer = WavWriter(file, 24000)
    writer.write(TONE)
    samples, rate = read_audio(io.BytesIO(file.getvalue()))
    assert rate == 24000
    np.testing.assert_allclose(samples, TONE, atol=1e-4)


def test_pipe_gets_a_streaming_header_and_every_byte() -> None:
    pipe = Pipe()
    with WavWriter(pipe, 24000) as writer:  # pyright: ignore[reportArgumentType]
        writer.write(TONE)
    assert pipe.data[:4] == b"RIFF"
    assert pipe.data[4:8] == pipe.data[40:44] == b"\xff\xff\xff\xff"
    assert pipe.data[44:] == to_s16le(TONE)
    assert not pipe.closed


def test_raw_output_into_an_operating_system_pipe() -> None:
    read_end, write_end = os.pipe()
    got: list[bytes] = []

    def drain() -> None:
        with open(read_end, "rb") as source:
            got.append(source.read())

    reader = threading.Thread(target=drain)
    reader.start()
    with open(write_end, "wb", buffering=0) as sink, WavWriter(sink, 24000, header=False) as writer:  # pyright: ignore[reportArgumentType]
        for _ in range(10):
            writer.write(TONE)
    reader.join()
    assert got == [to_s16le(TONE) * 10]


def test_writer_refuses_what_would_not_be_heard_right(tmp_path: Path) -> None:
    writer = WavWriter(io.BytesIO(), 24000)
    with pytest.raises(AudioError, match="16000 Hz"):
        writer.write(chunk(b"\0\0", 16000))
    with pytest.raises(AudioError, match="mulaw cannot go into a file of s16le"):
        writer.write(AudioChunk(b"\xff\xff", 24000, 0, (), 0.0, False, "mulaw"))
    with pytest.raises(AudioError, match="3 bytes"):
        writer.write(b"abc")
    with pytest.raises(AudioError, match="5 bytes are not whole samples of f32le"):
        WavWriter(io.BytesIO(), 24000, encoding="f32le").write(b"abcde")
    with pytest.raises(ConfigError, match="no encoding 'mp3'"):
        WavWriter(io.BytesIO(), 24000, encoding="mp3")  # pyright: ignore[reportArgumentType]
    writer.close()
    with pytest.raises(AudioError, match="closed"):
        writer.write(b"ab")
    with pytest.raises(AudioError, match="Cannot write"):
        WavWriter.create(tmp_path / "no" / "out.wav", 24000)


def test_import_stays_light() -> None:
    code = (
        "import sys, cf_agents.audio, cf_agents.voice, cf_agents.recording; "
        "print([name for name in ('torch', 'soundfile', 'soxr', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
