"""Turns of a LiveKit agent that is interrupted over and over: when it starts to speak, how fast it is silent, what comes late.

    PYTHONPATH=.:integrations/livekit-plugins-cf-agents:integrations/livekit-plugins-cf-agents/tests \\
        python -m benchmarks.livekit_turns [--turns 200] [--bots 1] [--link attach]

Each bot is a real `AgentSession`, all in this process and on one engine process, to which each session attaches by itself; with
`--link process` or `thread` they share one `TTS`. A scripted language model writes a token every `--token-ms`; each reply is
interrupted at a random time after its first audio. Frames are seen where they leave the plugin (`tts_node`), and those that are
late or foreign at the loudspeaker, whose buffer is cleared for silence. LiveKit closes the plugin's stream after that, and lets
nothing through meanwhile. See `turns` for the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import cast

from livekit import rtc
from livekit.agents import Agent, ModelSettings
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, USERDATA_TIMED_TRANSCRIPT, APIConnectOptions
from livekit.plugins import cf_agents
from livekit_fakes import Conversation, Script, conversation

from benchmarks.turns import AFTERWARDS_S, TOKEN_CHARS, Figures, heard_s, is_foreign, parser, report, text_of, turns_each
from cf_agents import TTS
from cf_agents.opening import Linked

LINKS = ("attach", "process", "thread")
TURN = "turn"


class Watched(Agent):
    """Notes when each frame leaves the plugin, and marks it with the reply it was made for."""

    def __init__(self) -> None:
        super().__init__(instructions="Be brief.")
        self.came: list[float] = []
        self.words = ""
        self.turn = -1
        self.told = 0.0
        self.first = asyncio.Event()

    async def tts_node(self, text: AsyncIterable[str], model_settings: ModelSettings) -> AsyncIterator[rtc.AudioFrame]:
        self.turn += 1
        turn = self.turn
        _SPEAKS.set(self)
        async for frame in Agent.default.tts_node(self, text, model_settings):
            frame.userdata[TURN] = turn
            self.came.append(time.time())
            self.words += "".join(frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, []))
            self.first.set()
            yield frame


_SPEAKS: ContextVar[Watched] = ContextVar("_SPEAKS")


class Speech(cf_agents.TTS):
    """Tells an agent when the framework closes its stream."""

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> cf_agents.SynthesizeStream:
        made, agent = super().stream(conn_options=conn_options), _SPEAKS.get()
        close = made.aclose

        async def aclose() -> None:
            agent.told = time.time()
            await close()

        made.aclose = aclose
        return made


async def converse(talk: Conversation, agent: Watched, args: argparse.Namespace, figures: Figures, bot: int) -> None:
    source = random.Random(bot)
    cleared = [0.0]
    clear = talk.loudspeaker.clear_buffer

    def clear_buffer() -> None:
        cleared[0] = time.time()
        clear()

    talk.loudspeaker.clear_buffer = clear_buffer
    for turn in range(turns_each(args)):
        agent.came.clear()
        agent.words = ""
        agent.first.clear()
        ended = len(talk.script.ended_at)
        began = time.time()
        reply = talk.session.generate_reply(user_input="Go on.")
        await agent.first.wait()
        figures.first_s.append(time.time() - began)
        figures.before_end += len(talk.script.ended_at) == ended
        await asyncio.sleep(heard_s(source))
        interrupted = time.time()
        talk.session.interrupt()
        await reply
        await asyncio.sleep(AFTERWARDS_S)
        figures.last_s.append(max(0.0, agent.came[-1] - interrupted))
        figures.told_s.append(agent.told - interrupted)
        figures.last_told_s.append(max(0.0, agent.came[-1] - agent.told))
        figures.silence_s.append(cleared[0] - interrupted)
        heard = [each for said in talk.loudspeaker.heard for each in said.frames]
        figures.late += sum(came > cleared[0] for came, _ in heard)
        marks = {frame.userdata[TURN] for _, frame in heard}
        figures.foreign += len(marks - {turn}) + is_foreign(agent.words, text_of(bot, turn))
        talk.loudspeaker.heard.clear()


async def measure(args: argparse.Namespace) -> Figures:
    figures = Figures()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = max(2, 2 * args.bots)

        def engine() -> TTS:
            if args.link == "attach":
                return TTS.attach(folder / "engine.sock", args.model, max_streams=places, idle_s=0.1)
            return TTS.load(args.model, link=cast(Linked, args.link), max_streams=places)

        many = args.bots if args.link == "attach" else 1
        speeches = [Speech(model=engine) for _ in range(many)]
        for speech in speeches:
            await stack.enter_async_context(speech)
            await speech.ready()
        talking = []
        for bot in range(args.bots):
            agent = Watched()
            script = Script([text_of(bot, turn) for turn in range(turns_each(args))], args.token_ms / 1e3, TOKEN_CHARS)
            talk = await stack.enter_async_context(conversation(speeches[bot % many], script, agent=agent))
            talking.append(converse(talk, agent, args, figures, bot))
        await asyncio.gather(*talking)
    return figures


def main() -> None:
    args = parser(__doc__, LINKS).parse_args()
    logging.disable(logging.WARNING)
    report("sessions", args, asyncio.run(measure(args)))


if __name__ == "__main__":
    main()
