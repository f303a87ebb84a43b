"""A LiveKit voice agent on your own machine: cf_agents speaks, any OpenAI-compatible server thinks, and another one listens.

    pip install livekit-plugins-cf-agents livekit-plugins-openai
    export LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=...
    export LLM_URL=http://localhost:11434/v1 LLM_MODEL=llama3.1 STT_URL=http://localhost:8000/v1 STT_MODEL=whisper-1
    python examples/livekit_agent.py dev

`python examples/livekit_agent.py console` talks in the terminal, without a LiveKit server. OPENAI_API_KEY is sent to both
servers; one that wants none takes anything. Replace `hearing` with any other speech-to-text of LiveKit's, such as
"deepgram/nova-3". The voice activity detection is the one that comes with LiveKit; give `AgentSession` another with `vad=`.
"""

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobProcess, cli, llm, stt
from livekit.agents.voice.room_io import RoomOptions, TextOutputOptions
from livekit.plugins import cf_agents, openai  # pyright: ignore[reportAttributeAccessIssue] (a package of its own)

KEY = os.environ.get("OPENAI_API_KEY", "none")

server = AgentServer()


def thinking() -> llm.LLM:
    return openai.LLM(
        model=os.environ.get("LLM_MODEL", "llama3.1"),
        base_url=os.environ.get("LLM_URL", "http://localhost:11434/v1"),
        api_key=KEY,
    )


def hearing() -> stt.STT:
    return openai.STT(
        model=os.environ.get("STT_MODEL", "whisper-1"),
        base_url=os.environ.get("STT_URL", "http://localhost:8000/v1"),
        api_key=KEY,
        use_realtime=False,
    )


def prewarm(process: JobProcess) -> None:
    # All jobs of this machine share one engine; it loads while the process waits for its job.
    speech = process.userdata["speech"] = cf_agents.TTS(
        model=os.environ.get("TTS_MODEL", "pocket"), voice=os.environ.get("TTS_VOICE", "default")
    )
    speech.prewarm()


server.setup_fnc = prewarm


@server.rtc_session()
async def talk(job: JobContext) -> None:
    speech: cf_agents.TTS = job.proc.userdata["speech"]
    job.add_shutdown_callback(speech.aclose)
    session = AgentSession(
        llm=thinking(),
        stt=hearing(),
        tts=speech,
        use_tts_aligned_transcript=True,  # history and captions hold what was heard
    )
    agent = Agent(instructions="You are a voice assistant. Answer in one to three short sentences, without lists or markup.")
    # These voices are faster than LiveKit takes them for; see the plugin's README.
    transcript = TextOutputOptions(transcription_speed_factor=1.25)
    await session.start(agent, room=job.room, room_options=RoomOptions(text_output=transcript))
    session.generate_reply(instructions="Greet the user and offer your help.")


if __name__ == "__main__":
    cli.run_app(server)
