"""Text to the decoder's text ids, by the checkpoint's `tokenizer.json`.

Knows nothing of how text should be written (see `text/`): it takes spoken form, as the model was trained on.
"""

from __future__ import annotations

import bisect
import itertools
from pathlib import Path

from tokenizers import Tokenizer

from cf_agents.config import T3Config
from cf_agents.errors import CheckpointDamaged, CheckpointMismatch, CheckpointNotFound
from cf_agents.text_ids import TextIds

START = "[START]"
STOP = "[STOP]"
SPACE = "[SPACE]"
UNKNOWN = "[UNK]"


class TextTokenizer:
    """Byte-pair encoding with the space as a token of its own. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, start: int, stop: int) -> None:
        self._tokenizer = tokenizer
        self._start = start
        self._stop = stop

    @classmethod
    def open(cls, path: Path, config: T3Config) -> TextTokenizer:
        """Read a `tokenizer.json` made for `config`.

        Raises `CheckpointNotFound` when there is none, `CheckpointDamaged` when it cannot be read, `CheckpointMismatch` when
        its start and stop ids are others than the decoder's or an id has no row in the decoder's embedding.
        """
        if not path.is_file():
            raise CheckpointNotFound(f"There is no {path}. Download the checkpoint again, or correct the folder.")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for whatever its parser meets
            raise CheckpointDamaged(f"{path} is not a tokenizer file ({error}). Download it again.") from error
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        for token, wanted in ((START, config.start_text), (STOP, config.stop_text)):
            if vocabulary.get(token) != wanted:
                raise CheckpointMismatch(
                    f"{path} gives {token} the id {vocabulary.get(token)}, and the decoder needs {wanted}. Check that the file "
                    "and the folder's config.json belong together."
                )
        needed = max(vocabulary.values()) + 1
        if needed > config.text_vocab or SPACE not in vocabulary:
            what = f"{needed} text ids" if needed > config.text_vocab else f"no {SPACE}"
            raise CheckpointMismatch(
                f"{path} has {what}, and the decoder has room for {config.text_vocab} ids, one of them {SPACE}. Check that the "
                "file and the folder's config.json belong together."
            )
        return cls(tokenizer, config.start_text, config.stop_text)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of `text` between the start and the stop id, as the decoder's prefix has them."""
        return self.read(text).ids

    def read(self, text: str) -> TextIds:
        """`encode`, and where in `text` each id begins."""
        found = self._tokenizer.encode(text.replace(" ", SPACE))
        widths = (len(SPACE) if character == " " else 1 for character in text)
        edges = list(itertools.accumulate(widths, initial=0))
        starts = [bisect.bisect_right(edges, start) - 1 for start, _ in found.offsets]
        return TextIds(text, (self._start, *found.ids, self._stop), (0, *starts, len(text)))
