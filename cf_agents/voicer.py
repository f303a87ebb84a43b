"""The one thread that touches the vocoder: decoded blocks become PCM, in batches, while the scheduler decodes the next ones.

    scheduler's thread                 voicer's thread
    decoded blocks --> [ queue ] --> [ one vocoder step, PCM handed to each speech ]
         ^                                    |
         +------------- what was voiced <-----+   (as commands of the scheduler)

Blocks of a speech keep their order. Those that somebody waits for in silence go before all others, and are handed over in two
pieces, so that the first is heard while the second is made. Knows nothing of decoding.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from cf_agents.audio import to_s16le
from cf_agents.decoded import Decoded
from cf_agents.errors import CfAgentsError
from cf_agents.fade import fade_out
from cf_agents.failures import isolated, typed
from cf_agents.links.base import Audio, Block
from cf_agents.runaway import HUSH_S
from cf_agents.silence import SilenceGate
from cf_agents.utterance import D, S, Speech, SpeechVocoder, Status, Utterance, V

if TYPE_CHECKING:
    from cf_agents.voice import Voice

_FADE_S = 0.02
"""At the end of an utterance that was cut."""


@dataclass(frozen=True, eq=False)
class Unvoiced(Generic[D, S]):
    """A block on its way to sound."""

    utterance: Utterance[D, S]
    decoded: Decoded
    ended: bool
    """Nothing of the utterance follows."""
    cut: bool
    """The decoder would have gone on."""
    steps: int
    began_s: float
    decoded_s: float
    first: bool
    """Its listener has heard nothing yet."""
    deadline_s: float
    """When its listener runs out of audio, or ran."""


class Owner(Protocol[D, S]):
    """What a voicer tells whoever gives it blocks, from its own thread."""

    def voiced(self, speech: Speech[D, S], seconds: float, dropped_s: float, at_s: float, *, more: bool) -> None:
        """A block was handed to its speech, as so many seconds of audio, at a time of the clock.

        dropped_s: seconds of it that nobody will hear: silence at the end. more: of the block, comes next.
        """
        ...

    def hushed(self, utterance: Utterance[D, S]) -> None:
        """An utterance adds only silence: it is to be ended."""
        ...

    def spoilt(self, speech: Speech[D, S]) -> None:
        """A speech was told that it failed."""
        ...

    def broken(self, error: BaseException) -> None:
        """The thread ends; no block is voiced any more."""
        ...


class Voicer(Generic[D, V, S]):
    """Owns a vocoder, the voices and states in it, and a thread. Methods are for the thread of its owner.

    Before `start`, each call does its work at once.
    """

    def __init__(
        self,
        vocoder: SpeechVocoder[V, S],
        sample_rate: int,
        owner: Owner[D, S],
        clock: Callable[[], float],
        most_at_once: int,
    ) -> None:
        self._vocoder = vocoder
        self._most_at_once = most_at_once
        self._sample_rate = sample_rate
        self._owner = owner
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._voices: list[Voice] = []
        self._blocks: list[Unvoiced[D, S]] = []
        self._closing = False
        # Touched by the voicer's thread alone.
        self._prepared: WeakKeyDictionary[Voice, V] = WeakKeyDictionary()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="cf-agents-voicer", daemon=False)
        self._thread.start()

    def expect(self, voice: Voice) -> None:
        """Blocks in this voice will come: prepare it as soon as nothing else is to do."""
        with self._changed:
            self._voices.append(voice)
            self._changed.notify()
        self._work_here()

    def put(self, blocks: Sequence[Unvoiced[D, S]]) -> None:
        """Make these blocks heard."""
        with self._changed:
            self._blocks += blocks
            self._changed.notify()
        self._work_here()

    def close(self) -> None:
        """Drop what waits and join the thread. Closing twice is fine."""
        with self._changed:
            self._closing = True
            self._voices, self._blocks = [], []
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work_here(self) -> None:
        while self._thread is None and (self._blocks or self._voices):
            self._work()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._closing or self._blocks or self._voices))
                    if self._closing:
                        return
                self._work()
        except BaseException as error:
            self._owner.broken(error)

    def _work(self) -> None:
        with self._changed:
            waiting = [block for block in self._blocks if not block.utterance.speech.over]
            batch = _most_urgent(waiting)[: self._most_at_once]
            self._blocks = [block for block in waiting if block not in batch]
            voice = self._voices.pop(0) if self._voices and not batch else None
        if voice is not None:
            with contextlib.suppress(Exception):  # its first block will tell
                self._prepare(voice)
        batch = [block for block in batch if self._opened(block.utterance)]
        begun: list[Unvoiced[D, S]] = []
        for block, (pcm, more) in isolated("The vocoder", batch, self._vocode, self._fail_block):
            self._hand_over(block, pcm, more=more)
            if more and not block.utterance.speech.over:
                begun.append(block)
        for block, pcm in isolated("The vocoder", begun, self._go_on, self._fail_block):
            self._hand_over(block, pcm, begun=True)

    def _prepare(self, voice: Voice) -> V:
        if voice not in self._prepared:
            self._prepared[voice] = self._vocoder.prepare(voice)
        return self._prepared[voice]

    def _opened(self, utterance: Utterance[D, S]) -> bool:
        if utterance.state is None:
            try:
                utterance.state = self._vocoder.open(self._prepare(utterance.speech.voice), utterance.seed)
            except Exception as error:
                self._fail(utterance.speech, typed(error, "The voice could not be prepared"))
        return utterance.state is not None

    def _vocode(self, batch: Sequence[Unvoiced[D, S]]) -> Sequence[tuple[NDArray[np.float32], bool]]:
        """PCM of each, and whether there is more of its block."""
        tokens, ended = [block.decoded.tokens for block in batch], [block.ended for block in batch]
        if all(block.first for block in batch):
            return self._vocoder.begin(_states(batch), tokens, ended)
        return [(pcm, False) for pcm in self._vocoder.step(_states(batch), tokens, ended)]

    def _go_on(self, batch: Sequence[Unvoiced[D, S]]) -> Sequence[NDArray[np.float32]]:
        return self._vocoder.rest(_states(batch))

    def _hand_over(self, block: Unvoiced[D, S], pcm: NDArray[np.float32], *, begun: bool = False, more: bool = False) -> None:
        """begun: it is not the first of its block. more: it is not the last."""
        utterance, speech = block.utterance, block.utterance.speech
        gate = utterance.gate = utterance.gate or SilenceGate(self._sample_rate)
        ended = block.ended and not more
        if block.cut and not more:
            faded = round(_FADE_S * self._sample_rate)
            pcm = np.concatenate([pcm[:-faded], fade_out(pcm[-faded:])])
        made_samples = gate.held + len(pcm)
        given = gate.feed(pcm, ended)
        try:
            sound = to_s16le(given)
        except CfAgentsError as error:
            self._fail(speech, error)
            return
        if ended:
            utterance.status, utterance.state = Status.DONE, None
        now = self._clock()
        places = block.decoded.places
        made = None if begun else Block(len(block.decoded.tokens), block.steps, block.began_s, block.decoded_s, now)
        characters = None if places is None or begun else utterance.text.characters(places)
        speech.say(Audio(utterance.index, sound, ended, made, characters))
        dropped = made_samples - len(given) if ended else 0
        self._owner.voiced(speech, len(given) / self._sample_rate, dropped / self._sample_rate, now, more=more)
        if places is None and not block.ended and gate.silent_s > HUSH_S:
            self._owner.hushed(utterance)

    def _fail_block(self, block: Unvoiced[D, S], error: CfAgentsError) -> None:
        self._fail(block.utterance.speech, error)

    def _fail(self, speech: Speech[D, S], error: CfAgentsError) -> None:
        if speech.fail(error):
            self._owner.spoilt(speech)


def _states(batch: Sequence[Unvoiced[D, S]]) -> list[S]:
    return [block.utterance.state for block in batch if block.utterance.state is not None]


def _most_urgent(blocks: Sequence[Unvoiced[D, S]]) -> list[Unvoiced[D, S]]:
    """What is voiced together: of every speech its oldest block, and where there are first ones, those alone."""
    oldest: dict[int, Unvoiced[D, S]] = {}
    for block in blocks:
        oldest.setdefault(id(block.utterance.speech), block)
    batch = [block for block in oldest.values() if block.first] or list(oldest.values())
    return sorted(batch, key=lambda block: block.deadline_s)
