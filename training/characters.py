"""The pocket model's text tokenizer: one id a character, in the `tokenizer.json` format of the released model.

Capitals and signs that the voice was not taught are folded onto what it knows. Knows nothing of speech.
"""

from __future__ import annotations

from cf_agents.synthetic import bpe_tokenizer
from training.config import POCKET
from training.text import CHARACTERS

UNKNOWN, SPACE = 1, 2
_FIRST = 4
FOLDED = {";": ",", ":": ",", "(": ",", ")": ",", "…": ".", "’": "'", "‘": "'", "—": ",", "–": ",", "“": "", "”": "", '"': ""}


def ids() -> dict[str, int]:
    """Id of every piece."""
    known = {"[STOP]": POCKET.t3.stop_text, "[UNK]": UNKNOWN, "[SPACE]": SPACE, "[START]": POCKET.t3.start_text}
    return {**known, **{character: _FIRST + n for n, character in enumerate(CHARACTERS.replace(" ", ""))}}


_IDS = ids()


def encode(text: str) -> list[int]:
    """What `TextTokenizer.encode` makes of a sentence of `CHARACTERS` and capitals, start and stop included."""
    read = text.lower()
    return [_IDS["[START]"], *(SPACE if character == " " else _IDS[character] for character in read), _IDS["[STOP]"]]


def tokenizer_json() -> dict[str, object]:
    """The file's content."""
    vocabulary = ids()
    folds = [{"type": "Replace", "pattern": {"String": sign}, "content": to} for sign, to in FOLDED.items()]
    plain = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    special = {index: piece for piece, index in vocabulary.items() if piece.startswith("[")}
    return bpe_tokenizer(vocabulary, special, [], {"type": "Sequence", "normalizers": [*plain, *folds]})
