"""What a worker's job processes run in the tests: as in an agent's file, a prewarm function and an entry point."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from livekit.agents import JobContext, JobProcess
from livekit.plugins import cf_agents
from livekit_fakes import Script, conversation

from cf_agents import DecodeParams

QUICK = DecodeParams(steps=1, guidance=0.0, max_tokens=16)
REPLY = "This is the first thing I say. This is the second thing, and it is longer."


def prewarm(process: JobProcess) -> None:
    """There is no event loop yet. user_arguments: model, socket path."""
    model, share = process.user_arguments
    speech = process.userdata["speech"] = cf_agents.TTS(model=model, share=share, params=QUICK, lead_s=0.5)
    speech.prewarm()


async def entrypoint(job: JobContext) -> None:
    """Say something, and write what was said of it next to the socket; on and on if the room is called so."""
    speech: cf_agents.TTS = job.proc.userdata["speech"]
    folder = Path(job.proc.user_arguments[1]).parent
    endless = job.job.room.name == "endless"
    await speech.ready()
    async with conversation(speech, Script([" ".join([REPLY] * 1000) if endless else REPLY])) as talk:
        if endless:
            talk.loudspeaker.once("playback_started", lambda _: (folder / "speaking").write_text(str(os.getpid())))
        await talk.reply()
        report = {"pid": os.getpid(), "said": talk.said(), "errors": len(talk.errors), "torch": "torch" in sys.modules}
        written = folder / f"{os.getpid()}.partial"
        written.write_text(json.dumps(report))
        written.rename(written.with_suffix(".json"))  # whoever waits for it finds it whole
    await speech.aclose()
    job.shutdown()
