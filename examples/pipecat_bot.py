"""A voice bot in the browser: Pipecat, WebRTC, any OpenAI-compatible language model, and cf_agents to speak.

    pip install pipecat-cf-agents "pipecat-ai[webrtc,runner,whisper]"
    export OPENAI_API_KEY=...                            # OpenAI's, or
    export OPENAI_BASE_URL=http://localhost:11434/v1     # a server of yours, with any key
    python examples/pipecat_bot.py                       # then open http://localhost:7860 and talk

Talk over the bot: it is silent at once, and remembers what you heard. Whisper recognises speech on this machine; its model is
downloaded once. Other models and voices: LLM_MODEL, TTS_MODEL (a folder or a hub id), VOICE ("male", or a voice file).
"""

import os

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.whisper.stt import WhisperSTTService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecat_cf_agents import CfAgentsTTSService

INSTRUCTION = "You are a friendly assistant on the phone. Answer in one to three short sentences, in plain words without lists."


async def bot(arguments: RunnerArguments) -> None:
    """One call. Calls at the same time share the model."""
    transport = await create_transport(
        arguments, {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}
    )
    llm = OpenAILLMService(
        settings=OpenAILLMService.Settings(model=os.environ.get("LLM_MODEL", "gpt-4.1-mini"), system_instruction=INSTRUCTION)
    )
    tts = CfAgentsTTSService(
        settings=CfAgentsTTSService.Settings(
            model=os.environ.get("TTS_MODEL", "pocket"), voice=os.environ.get("VOICE", "default")
        )
    )
    context = LLMContext()
    aggregators = LLMContextAggregatorPair(context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()))
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                WhisperSTTService(),
                aggregators.user(),
                llm,
                tts,
                transport.output(),
                aggregators.assistant(),  # behind the output, so that it hears of words when they are heard
            ]
        ),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        setup_timeout_secs=120.0,  # for a first download
    )

    @transport.event_handler("on_client_connected")
    async def greet(transport: BaseTransport, client: object) -> None:
        context.add_message({"role": "developer", "content": "Greet the caller in one sentence."})
        await worker.queue_frame(LLMRunFrame())

    @transport.event_handler("on_client_disconnected")
    async def hang_up(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=arguments.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
