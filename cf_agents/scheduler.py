"""The one thread that touches the device: every live utterance goes through one batched denoising step at a time.

    commands in --> [ open waiting utterances ] --> [ one denoising step of all that are due ]
                                ^                                     | blocks that finished
                                |                                     v
                     sleep until one is due <------ [ one vocoder step, PCM handed to each speech ]

Rows differ in voice, knobs, block and step. An utterance whose speech is `lead_s` ahead of its listener is left alone until it
is due again. Knows nothing of event loops, text or how its events travel.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cf_agents.audio import to_s16le
from cf_agents.decoded import Decoded
from cf_agents.engines.base import Prefix
from cf_agents.errors import CfAgentsError, EngineFull, StreamClosed, SynthesisFailed
from cf_agents.links.base import Audio, Block, Closed, Event, Failed
from cf_agents.utterance import D, S, Speech, SpeechDecoder, SpeechVocoder, Status, Utterance, V

if TYPE_CHECKING:
    from cf_agents.voice import Voice

R = TypeVar("R")

logger = logging.getLogger(__name__)

IDLE_CHECK_S = 1.0
"""How often a thread with nothing to do looks whether the interpreter is leaving; a forgotten close must not hang its exit."""


class Scheduler(Generic[D, V, S]):
    """Owns a decoder, a vocoder and the thread that drives them. Every method may be called from any thread.

    Events of a speech come in order from the scheduler's thread; its `deliver` must return at once and not raise.
    """

    def __init__(
        self,
        decoder: SpeechDecoder[D],
        vocoder: SpeechVocoder[V, S],
        sample_rate: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder = decoder
        self._vocoder = vocoder
        self._sample_rate = sample_rate
        self._clock = clock
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._accepting = True
        self._stopping = False
        self._thread: threading.Thread | None = None
        # From here on: touched by the scheduler's thread alone.
        self._speeches: list[Speech[D, S]] = []
        self._live: list[Utterance[D, S]] = []
        self._prepared: WeakKeyDictionary[Voice, V] = WeakKeyDictionary()
        self._full = False

    def start(self) -> None:
        """Start the thread."""
        assert self._thread is None, "a scheduler is started once"
        self._thread = threading.Thread(target=self._run, name="cf-agents-scheduler", daemon=False)
        self._thread.start()

    def open(self, voice: Voice, lead_s: float, deliver: Callable[[Event], None]) -> Speech[D, S]:
        """Begin a speech. Raises `StreamClosed` once the scheduler is closed."""
        speech: Speech[D, S] = Speech(voice, lead_s, deliver)
        self._post(lambda: self._speeches.append(speech))
        return speech

    def submit(self, utterance: Utterance[D, S]) -> None:
        """Queue an utterance behind those of its speech. Raises `StreamClosed` once the scheduler is closed."""
        self._post(partial(self._add, utterance))

    def report_position(self, speech: Speech[D, S], seconds: float) -> None:
        """The listener of `speech` is `seconds` into its audio now."""
        now = self._clock()
        self._post(lambda: speech.playback.report(seconds, now))

    def cancel(self, speech: Speech[D, S]) -> None:
        """End a speech before the next denoising step; `Closed` is its last event."""
        self._post(partial(self._close, speech))

    def close(self) -> None:
        """End every speech, free every row and join the thread. Blocks; closing twice is fine."""
        with self._lock:
            if self._accepting:
                self._accepting = False
                self._commands.put(self._stop)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _post(self, command: Callable[[], None]) -> None:
        with self._lock:
            if not self._accepting:
                raise StreamClosed("The TTS behind this stream is closed: open a new one with TTS.load.")
            self._commands.put(command)

    def _run(self) -> None:
        reason: CfAgentsError = StreamClosed("The TTS behind this stream was closed while it spoke.")
        try:
            while not self._stopping:
                self.take_commands(self.turn())
        except BaseException as error:
            logger.exception("The scheduler stopped; every stream of it fails.")
            reason = _failure(error, "The scheduler stopped")
        finally:
            with self._lock:
                self._accepting = False
            while not self._commands.empty():
                self._commands.get()()
            for speech in list(self._speeches):
                self._fail(speech, reason)
                self._close(speech)

    def _stop(self) -> None:
        self._stopping = True

    def take_commands(self, wait_s: float | None) -> None:
        """Carry out what has come in, waiting up to `wait_s` (None: for ever) for something to come."""
        while wait_s is None or wait_s > 0.0:
            patience = IDLE_CHECK_S if wait_s is None else min(wait_s, IDLE_CHECK_S)
            try:
                self._commands.get(timeout=patience)()
                break
            except queue.Empty:
                if not threading.main_thread().is_alive():
                    self._stopping = True
                    return
                wait_s = None if wait_s is None else wait_s - patience
        while not self._commands.empty():
            self._commands.get()()

    def turn(self) -> float | None:
        """Open what waits and take one denoising step: what the thread does over and over, between commands.

        Returns the seconds until there may be more to do, None when only a command can bring it.
        """
        self._open_waiting()
        now = self._clock()
        due = [u for u in self._live if u.speech.due_at(now) <= now]
        if due:
            self._step(due)
            return 0.0
        times = [u.speech.due_at(now) for u in self._live]
        if not self._full:
            times += [speech.due_at(now) for speech in self._speeches if speech.waiting and not speech.over]
        return max(0.0, min(times) - now) if times else None

    def _open_waiting(self) -> None:
        """Open utterances, the earliest playback deadline first, until rows run out."""
        while not self._full and not self._stopping:
            now = self._clock()
            ready = [s for s in self._speeches if s.waiting and s.current is None and s.due_at(now) <= now]
            if not ready:
                return
            self._open(min(ready, key=lambda speech: speech.deadline()))
            # A prefill may take long: a cancel that came meanwhile must not wait for the next one.
            self.take_commands(0.0)

    def _open(self, speech: Speech[D, S]) -> None:
        utterance = speech.waiting[0]
        try:
            prefix = Prefix(speech.voice.conditioning, utterance.text.ids)
            utterance.decoding = self._decoder.open(prefix, utterance.params, utterance.seed)
        except EngineFull as error:
            if self._live:
                self._full = True
            else:
                self._fail(speech, error)
            return
        except Exception as error:
            self._fail(speech, _failure(error, "The segment could not be opened"))
            return
        speech.waiting.popleft()
        speech.current = utterance
        utterance.status = Status.SPEAKING
        self._live.append(utterance)
        try:
            if speech.voice not in self._prepared:
                self._prepared[speech.voice] = self._vocoder.prepare(speech.voice)
            utterance.state = self._vocoder.open(self._prepared[speech.voice], utterance.seed)
        except Exception as error:
            self._fail(speech, _failure(error, "The voice could not be prepared"))

    def _step(self, due: list[Utterance[D, S]]) -> None:
        now = self._clock()
        for utterance in due:
            if utterance.block_began_s is None:
                utterance.block_began_s, utterance.block_steps = now, 0
            utterance.block_steps += 1
        done: list[Utterance[D, S]] = []
        for utterance, block in self._isolated("A denoising step", due, self._decode):
            if block is not None:
                assert utterance.decoding is not None
                utterance.block, utterance.ended = block, utterance.decoding.finished
                done.append(utterance)
        decoded_s = self._clock()
        for utterance in done:
            if utterance.ended:
                self._release(utterance)
        for utterance, pcm in self._isolated("The vocoder", done, self._vocode):
            self._hand_over(utterance, pcm, decoded_s)

    def _decode(self, due: Sequence[Utterance[D, S]]) -> Sequence[Decoded | None]:
        return self._decoder.step([u.decoding for u in due if u.decoding is not None])

    def _vocode(self, done: Sequence[Utterance[D, S]]) -> Sequence[NDArray[np.float32]]:
        states = [u.state for u in done if u.state is not None]
        return self._vocoder.step(states, [u.block.tokens for u in done], [u.ended for u in done])

    def _hand_over(self, utterance: Utterance[D, S], pcm: NDArray[np.float32], decoded_s: float) -> None:
        speech, now = utterance.speech, self._clock()
        try:
            sound = to_s16le(pcm)
        except CfAgentsError as error:
            self._fail(speech, error)
            return
        assert utterance.block_began_s is not None
        made = utterance.block
        block = Block(len(made.tokens), utterance.block_steps, utterance.block_began_s, decoded_s, now)
        utterance.block_began_s = None
        if len(pcm):
            speech.playback.add(len(pcm) / self._sample_rate, now)
        if utterance.ended:
            utterance.status, utterance.state, speech.current = Status.DONE, None, None
        places = None if made.places is None else utterance.text.characters(made.places)
        speech.deliver(Audio(utterance.index, sound, utterance.ended, block, places))

    def _isolated(
        self, what: str, batch: list[Utterance[D, S]], call: Callable[[Sequence[Utterance[D, S]]], Sequence[R]]
    ) -> list[tuple[Utterance[D, S], R]]:
        """`call` over the batch. Where it raises, over each alone, so that only the speech at fault fails."""
        results: list[tuple[Utterance[D, S], R]] = []
        groups = [batch] if batch else []
        while groups:
            group = groups.pop()
            try:
                results += zip(group, call(group), strict=True)
            except Exception as error:
                logger.warning("%s of %d utterances failed.", what, len(group), exc_info=True)
                if len(group) > 1:
                    groups = [[utterance] for utterance in group]
                else:
                    self._fail(group[0].speech, _failure(error, f"{what} failed"))
        return results

    def _add(self, utterance: Utterance[D, S]) -> None:
        if not utterance.speech.over:
            utterance.speech.waiting.append(utterance)

    def _fail(self, speech: Speech[D, S], error: CfAgentsError) -> None:
        if not speech.over:
            self._drop(speech)
            speech.deliver(Failed(error))

    def _close(self, speech: Speech[D, S]) -> None:
        if not speech.closed:
            self._drop(speech)
            speech.closed = True
            self._speeches.remove(speech)
            speech.deliver(Closed())

    def _drop(self, speech: Speech[D, S]) -> None:
        speech.over = True
        if speech.current is not None:
            speech.current.status = Status.DROPPED
            self._release(speech.current)
            speech.current = None
        for utterance in speech.waiting:
            utterance.status = Status.DROPPED
        speech.waiting.clear()

    def _release(self, utterance: Utterance[D, S]) -> None:
        """Give the rows back; waiting utterances may fit now."""
        if utterance.decoding is not None:
            self._live.remove(utterance)
            decoding, utterance.decoding = utterance.decoding, None
            self._decoder.close(decoding)
            self._full = False


def _failure(error: BaseException, what: str) -> CfAgentsError:
    """The typed error as it is; anything else wrapped, with its cause."""
    if isinstance(error, CfAgentsError):
        return error
    failed = SynthesisFailed(f"{what}: {type(error).__name__}: {error}. Other streams go on; open a new one to try again.")
    failed.__cause__ = error
    return failed
