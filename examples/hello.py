"""Speak one sentence into hello.wav.

    python examples/hello.py [MODEL]

MODEL is "tiny" (random weights: noise, but no download), a checkpoint folder, or "ResembleAI/chatterbox-flash", which needs a
voice of yours: cf-agents voice make me.wav -o voice.safetensors
"""

import sys

import anyio

from cf_agents import TTS, WavWriter


async def main(model: str) -> None:
    async with TTS.load(model) as tts, tts.stream() as stream:
        stream.write("Hello! This is the first sentence of your voice agent.")
        stream.end()
        with WavWriter.create("hello.wav", stream.sample_rate) as file:
            async for chunk in stream:
                file.write(chunk)
                print(f"{chunk.start_s:5.2f} s", "".join(word.text for word in chunk.words))
        print(f"hello.wav: {stream.stats.audio_s:.2f} s, the first of it after {1e3 * (stream.stats.ttfa_s or 0.0):.0f} ms")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tiny")
