"""The door, over the small random checkpoint: the whole chain for real, on both event loops."""

from __future__ import annotations

import gc
import json
import math
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from cf_agents import TTS, DecodeParams, Voice
from cf_agents import tts as tts_module
from cf_agents.audio import AudioChunk
from cf_agents.backends import choose
from cf_agents.builtin import random_voice
from cf_agents.builtin import tiny_folder as built_in_folder
from cf_agents.config import ModelConfig
from cf_agents.decode import Decoder
from cf_agents.errors import (
    BackendUnavailable,
    Busy,
    CheckpointNotFound,
    ConfigError,
    StreamClosed,
    SynthesisFailed,
    VoiceError,
)
from cf_agents.opening import Linked
from cf_agents.stream import Stream
from cf_agents.synthetic import TINY
from cf_agents.text.segment import SegmentPolicy

pytestmark = pytest.mark.anyio

QUICK = DecodeParams(steps=2, max_tokens=24)
TEXT = "Hello there, this is short. "


async def speak(stream: Stream, text: str = TEXT) -> list[AudioChunk]:
    async with stream:
        stream.write(text)
        stream.end()
        return [chunk async for chunk in stream]


def joined(chunks: list[AudioChunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


async def test_text_becomes_sound(tiny_folder: Path) -> None:
    async with TTS.load(tiny_folder, params=QUICK, link="thread") as tts:
        assert (tts.sample_rate, tts.config.trained, list(tts.voices)) == (24_000, False, ["default"])
        chunks = await speak(tts.stream())
        assert "cf-agents-scheduler" in [thread.name for thread in threading.enumerate()]
    assert "cf-agents-scheduler" not in [thread.name for thread in threading.enumerate()]
    assert "".join(word.text for chunk in chunks for word in chunk.words) == TEXT
    sound = np.frombuffer(joined(chunks), "<i2").astype(float)
    assert len(sound) == 24 * 960
    assert 300 < sound.std() < 20_000
    assert np.abs(sound).max() < 32_767


async def test_a_checkpoint_names_its_knobs_and_who_asks_for_others_gets_those(tiny_folder: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text()) | {"decoding": asdict(QUICK)}
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    async with TTS.load(tmp_path) as tts:
        assert tts.params == tts.config.decoding == QUICK
        named = joined(await speak(tts.stream(seed=1)))
        other = joined(await speak(tts.stream(seed=1, params=replace(QUICK, max_tokens=32))))
    async with TTS.load(tiny_folder, params=QUICK) as tts:
        assert joined(await speak(tts.stream(seed=1))) == named
    assert len(named) < len(other)
    assert TTS.load(tmp_path, params="paper")._params == DecodeParams.preset("paper")


async def test_a_checkpoint_names_how_long_a_breath_is(tiny_folder: Path, tmp_path: Path) -> None:
    sentence = "the lamps go out along the line, and the old man walks down to the river, where it is dark."
    policy = asdict(SegmentPolicy(early_chars=44, merged_chars=40, max_chars=48))
    config = json.loads((tiny_folder / "config.json").read_text()) | {"segments": policy}
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    segments: dict[Path, list[str]] = {}
    for folder in (tiny_folder, tmp_path):
        async with TTS.load(folder, params=QUICK) as tts:
            spoken: dict[int, str] = {}
            for chunk in await speak(tts.stream(), f"{TEXT}{sentence}"):
                said = "".join(word.text for word in chunk.words)
                spoken[chunk.segment] = spoken.get(chunk.segment, "") + said
            segments[folder] = list(spoken.values())
    assert segments[tiny_folder][-1].strip() == sentence
    assert len(segments[tmp_path]) > len(segments[tiny_folder])
    assert max(map(len, segments[tmp_path])) <= 48
    assert "".join(segments[tmp_path]) == "".join(segments[tiny_folder])


async def test_a_seed_gives_the_same_speech_whatever_else_is_spoken(tiny_folder: Path) -> None:
    async with TTS.load(tiny_folder, params=QUICK) as tts:
        alone = joined(await speak(tts.stream(seed=5, lead_s=100.0)))
        results: dict[int, bytes] = {}

        async def one(seed: int) -> None:
            params = DecodeParams(steps=1 + seed % 3, max_tokens=24) if seed != 5 else None
            results[seed] = joined(await speak(tts.stream(seed=seed, lead_s=100.0, params=params), TEXT))

        async with anyio.create_task_group() as group:
            for seed in range(3, 8):
                group.start_soon(one, seed)
        # Floats of another batch differ in their last bits; the tokens, and so the sound, do not.
        same, other = (np.frombuffer(results[seed], "<i2").astype(int) for seed in (5, 6))
        heard = np.frombuffer(alone, "<i2").astype(int)
        assert np.abs(same - heard).max() <= 2
        assert np.abs(other - heard).max() > 1000


@pytest.mark.parametrize("link", ["thread", "process"])
async def test_a_full_house_says_so_at_once_and_all_that_are_in_speak(tiny_folder: Path, link: Linked) -> None:
    async with TTS.load(tiny_folder, params=QUICK, max_streams=2, link=link) as tts:
        text = "One two three four."
        for _ in range(2):
            async with tts.stream() as first, tts.stream() as second:
                with pytest.raises(Busy) as caught:
                    tts.stream()
                assert caught.value.retry_after_s > 0.0
                # The barge-in of a full house: the new turn has the place of the old one at once.
                second.cancel_nowait()
                lengths = [len(joined(await speak(stream, text))) for stream in (first, tts.stream())]
            assert lengths == [2 * 24 * 960] * 2


async def test_say_is_the_whole(tiny_folder: Path) -> None:
    async with TTS.load(tiny_folder, params=QUICK) as tts:
        whole = await tts.say(TEXT, seed=1)
        assert whole.pcm == joined(await speak(tts.stream(seed=1)))
        assert "".join(word.text for word in whole.words) == TEXT
        called = await tts.say(TEXT, seed=1, sample_rate=8000, encoding="mulaw")
        assert (called.sample_rate, called.encoding, called.duration_s) == (8000, "mulaw", whole.duration_s)
        assert called.words[-1].end_s == pytest.approx(whole.words[-1].end_s)


async def test_cancel_frees_the_engine(tiny_folder: Path) -> None:
    async with TTS.load(tiny_folder, max_streams=1) as tts:
        async with tts.stream(lead_s=math.inf) as stream:
            stream.write(TEXT * 20)
            chunk = await anext(aiter(stream))
            heard = await stream.cancel(at_s=chunk.duration_s)
            assert heard.text
            assert TEXT.startswith(heard.text)
        # One row pair: this speaks only if the other has let go of it.
        assert await speak(tts.stream(params=QUICK))


async def test_voices_by_name_file_and_object(tiny_folder: Path, tmp_path: Path) -> None:
    other = random_voice(TINY, "other")
    other.save(tmp_path / "other.safetensors")
    async with TTS.load(tiny_folder, params=QUICK, voices={"mine": other, "same": tmp_path / "other.safetensors"}) as tts:
        assert set(tts.voices) == {"default", "mine", "same"}
        by_default, *rest = [
            joined(await speak(tts.stream(voice, seed=1)))
            for voice in ("default", "mine", "same", other, tmp_path / "other.safetensors", str(tmp_path / "other.safetensors"))
        ]
        assert len({by_default, *rest}) == 2
        assert by_default not in rest
        with pytest.raises(VoiceError, match=r"no voice 'nobody'.*default, mine, same.*voice make"):
            tts.stream("nobody")
        with pytest.raises(VoiceError, match="does not fit"):
            tts.stream(random_voice(ModelConfig(flow=TINY.flow, t3=TINY.t3.__class__(speaker_dim=16)), "narrow"))
        with pytest.raises(ConfigError):
            tts.stream(params="no such preset")
        with pytest.raises(ConfigError):
            tts.stream(lead_s=0.0)


async def test_a_model_without_voices_says_how_to_make_one(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "mute", ignore=shutil.ignore_patterns("voices"))
    async with TTS.load(tmp_path / "mute") as tts:
        assert dict(tts.voices) == {}
        with pytest.raises(VoiceError, match=r"it has none.*voice make"):
            tts.stream()


async def test_a_voice_is_made_of_a_recording(tiny_folder: Path, tmp_path: Path) -> None:
    import soundfile

    seconds = np.arange(4 * 24_000) / 24_000
    speech = 0.3 * np.sin(2 * np.pi * 150 * seconds) * (1 + np.sin(2 * np.pi * 3 * seconds)) / 2
    noise = np.random.RandomState(0).standard_normal(len(speech)) * 0.01
    soundfile.write(tmp_path / "me.wav", speech + noise, 24_000)
    async with TTS.load(tiny_folder, params=QUICK) as tts:
        voice = await tts.make_voice(tmp_path / "me.wav", exaggeration=0.7)
        assert isinstance(voice, Voice)
        assert (voice.name, voice.conditioning.exaggeration) == ("me", 0.7)
        assert joined(await speak(tts.stream(voice, seed=1))) != joined(await speak(tts.stream(seed=1)))


async def test_used_outside_its_block() -> None:
    tts = TTS.load("tiny")
    with pytest.raises(StreamClosed, match="async with"):
        tts.stream()
    await tts.aclose()
    await tts.aclose()
    with pytest.raises(StreamClosed):
        await tts.__aenter__()


async def test_closing_ends_streams_and_is_idempotent(tiny_folder: Path) -> None:
    tts = TTS.load(tiny_folder)
    await tts.__aenter__()
    stream = tts.stream(lead_s=math.inf)
    stream.write(TEXT * 20)
    await anext(aiter(stream))
    await tts.aclose()
    await tts.aclose()
    with pytest.raises(StreamClosed):
        [chunk async for chunk in stream]
    await stream.aclose()


async def test_an_unclosed_tts_warns(tiny_folder: Path) -> None:
    tts = TTS.load(tiny_folder)
    await tts.__aenter__()
    link = tts._loaded.link
    kept = [tts]
    del tts
    with pytest.warns(ResourceWarning, match="never closed"):
        drop(kept)
    await link.aclose()


def drop(kept: list[TTS]) -> None:
    kept.clear()
    gc.collect()


@pytest.mark.parametrize("link", ["thread", "process"])
async def test_loading_neither_blocks_the_loop_nor_outlives_a_cancel(
    tiny_folder: Path, link: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, load = threading.Event(), tts_module.opened

    def watched(*args: Any) -> Any:
        try:
            return load(*args)
        finally:
            ended.set()

    monkeypatch.setattr(tts_module, "opened", watched)
    with anyio.move_on_after(0.01) as scope:
        async with TTS.load(tiny_folder, link=link):
            raise AssertionError("loaded in 10 ms")
    assert scope.cancelled_caught
    assert not ended.is_set(), "a caller that was cancelled waited for the load"
    assert await anyio.to_thread.run_sync(ended.wait, 60.0)
    for _ in range(3000):
        if not any(thread.name.startswith("cf-agents") for thread in threading.enumerate()):
            return
        await anyio.sleep(0.01)
    raise AssertionError("what was abandoned lives on")


async def test_a_failing_load_raises_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        await TTS.load(tmp_path / "absent").__aenter__()
    shutil.copytree(tiny_folder, tmp_path / "copy")
    (tmp_path / "copy" / "voices" / "default.safetensors").write_bytes(b"not a voice")
    with pytest.raises(VoiceError):
        await TTS.load(tmp_path / "copy").__aenter__()


async def test_what_the_warm_up_meets_is_the_loads_error(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Decoder, *_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Decoder, "step", fail)
    with pytest.raises(SynthesisFailed, match="out of memory"):
        await TTS.load(tiny_folder, link="thread").__aenter__()
    assert "cf-agents-scheduler" not in [thread.name for thread in threading.enumerate()]


async def test_progress_is_told(tiny_folder: Path) -> None:
    told: list[str] = []
    async with TTS.load(tiny_folder, progress=told.append):
        pass
    assert [message.split()[0] for message in told] == ["Looking", "Importing", "Reading", "Reading", "Warming"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"backend": "flashinfer"}, BackendUnavailable),
        ({"backend": "dense", "quantise": 4}, ConfigError),
        ({"backend": "flashinfer", "quantise": 8}, ConfigError),
        ({"backend": "dense", "quantise": 8, "dtype": "bfloat16"}, ConfigError),
        ({"backend": "mlx", "quantise": 3}, ConfigError),
        ({"backend": "cuda"}, ConfigError),
        ({"dtype": "int8"}, ConfigError),
        ({"max_streams": 0}, ConfigError),
        ({"lead_s": -1.0}, ConfigError),
        ({"lead_s": math.nan}, ConfigError),
        ({"params": "fastest"}, ConfigError),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(asked: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        TTS.load("tiny", **asked)


def test_what_runs_is_chosen_with_a_reason() -> None:
    choice = choose("auto", "cpu", "float32")
    assert (choice.backend, choice.device, choice.dtype) == ("dense", "cpu", "float32")
    assert choose("dense", "cpu", "bfloat16").dtype == "bfloat16"
    assert "as asked" in choice.why
    with pytest.raises(ConfigError, match="teapot"):
        choose(device="teapot")
    with pytest.raises(BackendUnavailable):
        choose(device="cuda:63")


def test_tiny_is_built_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path))
    folder = built_in_folder()
    assert tmp_path in folder.parents
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert built_in_folder() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    assert [path for path in folder.parent.iterdir() if path != folder] == []
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointNotFound, match="HF_HOME"):
        built_in_folder()


def test_an_agent_that_only_holds_the_door_has_no_torch() -> None:
    code = "import sys\nfrom cf_agents import *\nTTS.load('tiny')\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[1])


def test_the_face_has_what_it_says() -> None:
    import cf_agents

    assert all(getattr(cf_agents, name) is not None for name in cf_agents.__all__)
    assert set(cf_agents.__all__) <= set(dir(cf_agents))
    with pytest.raises(AttributeError):
        cf_agents.NoSuchThing  # noqa: B018
