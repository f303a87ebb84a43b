"""Voices that clients have sent, one object for equal ones, so that what is computed for a voice serves every client."""

from __future__ import annotations

import hashlib
import threading
from weakref import WeakValueDictionary

from cf_agents.voice import Voice


class Shelf:
    """Voices by the SHA-256 of their bytes; for any thread. A voice stays while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._voices: WeakValueDictionary[str, Voice] = WeakValueDictionary()
        self._kept: list[Voice] = []

    def keep(self, voice: Voice) -> None:
        """Have it for good."""
        with self._lock:
            self._voices[hashlib.sha256(voice.to_bytes()).hexdigest()] = voice
            self._kept.append(voice)

    def take(self, data: bytes) -> Voice:
        """The voice that `Voice.to_bytes` wrote as `data`. Raises `VoiceError` when it is none."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            voice = self._voices.get(digest)
        if voice is None:
            read = Voice.from_bytes(data)
            with self._lock:
                voice = self._voices.setdefault(digest, read)
        return voice
