"""The one thread that touches the decoder: every live utterance goes through one batched denoising step at a time.

    commands in --> [ open waiting utterances ] --> [ one denoising step of all that are due ] --> blocks to the voicer
                                ^                                     |
                     sleep until one is due <--- [ else: prepare what is said next ]

Rows differ in voice, knobs, block and step. An utterance whose speech is `lead_s` ahead of its listener is left alone until it
is due again. Knows nothing of event loops, text or how its events travel.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic

from cf_agents.config import TOKEN_RATE
from cf_agents.decoded import Decoded
from cf_agents.engines.base import Prefix
from cf_agents.errors import Busy, CfAgentsError, EngineFull, StreamClosed
from cf_agents.failures import isolated, typed
from cf_agents.links.base import Event
from cf_agents.utterance import D, S, Speech, SpeechDecoder, SpeechVocoder, Status, Utterance, V
from cf_agents.voicer import Unvoiced, Voicer

if TYPE_CHECKING:
    from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

IDLE_CHECK_S = 1.0
"""How often a thread with nothing to do looks whether the interpreter is leaving; a forgotten close must not hang its exit."""


ROWS_RETRY_S = 1.0
"""About as long as the rest of a segment takes, after which its rows are free."""


class Scheduler(Generic[D, V, S]):
    """Owns a decoder, the thread that drives it, and the voicer. Every method may be called from any thread.

    Events of a speech come in order, from the scheduler's thread or the voicer's; its `deliver` must return at once and not
    raise. voiced_at_once: blocks that the vocoder is given together at most.

    A speech that says its first segment gets rows at once or fails with `Busy`; one that has begun to speak waits for rows.
    """

    def __init__(
        self,
        decoder: SpeechDecoder[D],
        vocoder: SpeechVocoder[V, S],
        sample_rate: int,
        clock: Callable[[], float] = time.monotonic,
        voiced_at_once: int = 4,
    ) -> None:
        self._decoder = decoder
        self._clock = clock
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._accepting = True
        self._stopping = False
        self._reason: CfAgentsError = StreamClosed("The TTS behind this stream was closed while it spoke.")
        """What speeches that are still open at the end are told."""
        self._thread: threading.Thread | None = None
        self._voicer: Voicer[D, V, S] = Voicer(vocoder, sample_rate, self, clock, voiced_at_once)
        # From here on: touched by the scheduler's thread alone.
        self._speeches: list[Speech[D, S]] = []
        self._full = False
        """A speech that has begun waits for rows, and none was freed since."""
        self._no_spare = False
        """An utterance that was to be prepared found no rows, and none was freed since."""

    def start(self) -> None:
        """Start the threads."""
        assert self._thread is None, "a scheduler is started once"
        self._thread = threading.Thread(target=self._run, name="cf-agents-scheduler", daemon=False)
        self._voicer.start()
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
        """End a speech before the next denoising step. No audio of it is delivered any more; `Closed` is its last event."""
        speech.over = True
        self._post(partial(self._close, speech))

    def close(self) -> None:
        """End every speech, free every row and join the threads. Blocks; closing twice is fine."""
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
        try:
            while not self._stopping:
                self.take_commands(self.turn())
        except BaseException as error:
            self._stop_for(error)
        finally:
            with self._lock:
                self._accepting = False
            while not self._commands.empty():
                self._commands.get()()
            for speech in list(self._speeches):
                self._fail(speech, self._reason)
                self._close(speech)
            self._voicer.close()

    def _stop(self) -> None:
        self._stopping = True

    def _stop_for(self, error: BaseException) -> None:
        logger.error("The scheduler stopped; every stream of it fails.", exc_info=error)
        self._stopping, self._reason = True, typed(error, "The scheduler stopped")

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
        due = [speech.opened[0] for speech in self._speeches if speech.opened and _due(speech, now)]
        if due:
            self._step(due)
            return 0.0
        if self._prepare_next():
            return 0.0
        times = [s.due_at(now) for s in self._speeches if s.opened or (s.waiting and not self._full)]
        soonest = min(times, default=math.inf)
        return None if soonest == math.inf else max(0.0, soonest - now)

    # What the voicer tells, from its thread.

    def voiced(self, speech: Speech[D, S], seconds: float, dropped_s: float, at_s: float, *, more: bool) -> None:
        """See `voicer.Owner`."""

        def note() -> None:
            speech.voicing -= not more
            speech.parted = more
            speech.coming_s -= seconds + dropped_s
            if seconds:
                speech.playback.add(seconds, at_s)

        self._commands.put(note)

    def hushed(self, utterance: Utterance[D, S]) -> None:
        """See `voicer.Owner`."""
        self._commands.put(partial(self._end, utterance))

    def spoilt(self, speech: Speech[D, S]) -> None:
        """See `voicer.Owner`."""
        self._commands.put(partial(self._drop, speech))

    def broken(self, error: BaseException) -> None:
        """See `voicer.Owner`."""
        self._commands.put(partial(self._stop_for, error))

    def _open_waiting(self) -> None:
        """Open utterances that are due, the earliest playback deadline first."""
        while not self._stopping:
            now = self._clock()
            ready = [speech for speech in self._speeches if speech.waiting and not speech.opened and _due(speech, now)]
            if self._full:
                ready = [speech for speech in ready if not speech.begun]
            if not ready:
                return
            speech = min(ready, key=_next_deadline)
            try:
                self._open(speech)
            except EngineFull as error:
                if not self._give_up_one_prepared():
                    self._no_rows(speech, error)
            except Exception as error:
                self._fail(speech, typed(error, "The segment could not be opened"))
            # A prefill may take long: a cancel that came meanwhile must not wait for the next one.
            self.take_commands(0.0)

    def _prepare_next(self) -> bool:
        """While nothing is due: open the next utterance of a speech that has one under way. False where there is none.

        Not while somebody waits for their first audio: the voicer may need all of the machine.
        """
        if any(speech.awaited and not speech.over for speech in self._speeches):
            return False
        behind = [s for s in self._speeches if s.waiting and len(s.opened) == 1 and not s.over and not s.waiting[0].refused]
        if not behind or self._full or self._no_spare:
            return False
        speech = min(behind, key=_next_deadline)
        try:
            self._open(speech)
        except EngineFull:
            self._no_spare = True
        except Exception:
            # What was said before it is still to be heard: it is told when its turn comes.
            speech.waiting[0].refused = True
        return True

    def _open(self, speech: Speech[D, S]) -> None:
        utterance = speech.waiting[0]
        prefix = Prefix(speech.voice.conditioning, utterance.text.ids)
        utterance.decoding = self._decoder.open(prefix, utterance.params, utterance.seed, utterance.text.words)
        utterance.status = Status.SPEAKING
        speech.opened.append(speech.waiting.popleft())
        self._voicer.expect(speech.voice)

    def _give_up_one_prepared(self) -> bool:
        """Take the rows of a prepared utterance back, that of the latest deadline. False when there is none."""
        prepared = [speech for speech in self._speeches if len(speech.opened) > 1]
        if not prepared:
            return False
        speech = max(prepared, key=lambda each: each.deadline(each.opened[1].submitted_s))
        utterance = speech.opened.pop()
        self._release(utterance)
        utterance.status = Status.WAITING
        speech.waiting.appendleft(utterance)
        return True

    def _no_rows(self, speech: Speech[D, S], error: EngineFull) -> None:
        if not any(each.opened for each in self._speeches):
            self._fail(speech, error)
        elif speech.begun:
            self._full = True
        else:
            self._fail(speech, Busy(f"{error} Or try again in {ROWS_RETRY_S:.0f} s.", ROWS_RETRY_S))

    def _step(self, due: list[Utterance[D, S]]) -> None:
        now = self._clock()
        for utterance in due:
            if utterance.block_began_s is None:
                utterance.block_began_s, utterance.block_steps = now, 0
            utterance.block_steps += 1
        blocks: list[Unvoiced[D, S]] = []
        for utterance, block in isolated("A denoising step", due, self._decode, self._fail_utterance):
            if block is not None:
                blocks.append(self._take(utterance, block))
        if blocks:
            self._voicer.put(blocks)

    def _decode(self, due: Sequence[Utterance[D, S]]) -> Sequence[Decoded | None]:
        return self._decoder.step([u.decoding for u in due if u.decoding is not None])

    def _take(self, utterance: Utterance[D, S], block: Decoded) -> Unvoiced[D, S]:
        assert utterance.decoding is not None
        finished = utterance.decoding.finished
        heard, spoken_out = utterance.worth_hearing(block)
        return self._unvoiced(utterance, heard, ended=finished or spoken_out, cut=len(heard.tokens) < len(block.tokens))

    def _end(self, utterance: Utterance[D, S]) -> None:
        """Nothing more of an utterance is worth hearing."""
        if utterance.decoding is not None and not utterance.speech.over:
            self._voicer.put([self._unvoiced(utterance, Decoded([]), ended=True, cut=True)])

    def _unvoiced(self, utterance: Utterance[D, S], block: Decoded, *, ended: bool, cut: bool) -> Unvoiced[D, S]:
        speech = utterance.speech
        unvoiced = Unvoiced(
            utterance,
            block,
            ended=ended,
            cut=cut,
            steps=utterance.block_steps,
            began_s=self._clock() if utterance.block_began_s is None else utterance.block_began_s,
            decoded_s=self._clock(),
            first=not speech.playback.made_s,
            deadline_s=speech.deadline(utterance.submitted_s),
        )
        utterance.block_began_s = None
        speech.voicing += 1
        speech.coming_s += len(block.tokens) / TOKEN_RATE
        if unvoiced.ended:
            speech.opened.popleft()
            self._release(utterance)
        return unvoiced

    def _add(self, utterance: Utterance[D, S]) -> None:
        if not utterance.speech.over:
            utterance.speech.waiting.append(utterance)

    def _fail_utterance(self, utterance: Utterance[D, S], error: CfAgentsError) -> None:
        self._fail(utterance.speech, error)

    def _fail(self, speech: Speech[D, S], error: CfAgentsError) -> None:
        if speech.fail(error):
            self._drop(speech)

    def _close(self, speech: Speech[D, S]) -> None:
        if not speech.closed:
            self._drop(speech)
            self._speeches.remove(speech)
            speech.close()

    def _drop(self, speech: Speech[D, S]) -> None:
        for utterance in (*speech.opened, *speech.waiting):
            utterance.status = Status.DROPPED
            self._release(utterance)
        speech.opened.clear()
        speech.waiting.clear()

    def _release(self, utterance: Utterance[D, S]) -> None:
        """Give the rows back; waiting utterances may fit now."""
        if utterance.decoding is not None:
            decoding, utterance.decoding = utterance.decoding, None
            self._decoder.close(decoding)
            self._full = self._no_spare = False


def _due(speech: Speech[D, S], now: float) -> bool:
    return not speech.over and speech.due_at(now) <= now


def _next_deadline(speech: Speech[D, S]) -> float:
    return speech.deadline(speech.waiting[0].submitted_s)
