"""A language model writes, the agent speaks while it writes, and the listener interrupts.

    python examples/llm_stream.py [MODEL]

The language model is a script that writes a word every 60 ms. After two seconds the listener barges in: synthesis stops, and
the conversation keeps what was heard instead of what was written.
"""

import sys
from collections.abc import AsyncIterator

import anyio

from cf_agents import TTS, Stream, StreamClosed

TOKEN_S = 0.06
BARGE_IN_S = 2.0
ANSWER = (
    "The first train to the coast leaves at nine in the morning. It stops in every village on the way, so bring a book, "
    "or take the express at half past ten, which costs $12 more and is there before it. Shall I book a seat for you?"
)


async def language_model() -> AsyncIterator[str]:
    for word in ANSWER.split(" "):
        yield word + " "
        await anyio.sleep(TOKEN_S)


async def write(stream: Stream) -> None:
    try:
        async for token in language_model():
            stream.write(token)
        stream.end()
    except StreamClosed:
        print("The language model is told to stop.")


async def play(stream: Stream) -> None:
    async for chunk in stream:
        # A sound card takes the chunk here: chunk.pcm, 16-bit samples at chunk.sample_rate.
        print(f"{chunk.start_s:6.2f} s  {chunk.duration_s:.2f} s of audio  ", "".join(word.text for word in chunk.words))


async def main(model: str) -> None:
    async with TTS.load(model) as tts, tts.stream() as stream, anyio.create_task_group() as group:
        group.start_soon(write, stream)
        group.start_soon(play, stream)
        await anyio.sleep(BARGE_IN_S)
        heard = await stream.cancel()
        print(f"Interrupted after {heard.seconds:.2f} s of speech. Heard: {heard.text!r}")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "tiny")
