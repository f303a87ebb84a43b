"""Make tokenizer.json: the ids that the published package (chatterbox-tts 0.1.7) gives thirty texts.

Run in an environment that has that package: `python tests/goldens/make_tokenizer.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import without_init

without_init("chatterbox")

from chatterbox.models.tokenizers import EnTokenizer

from cf_agents.config import T3Config
from cf_agents.synthetic import tokenizer_json

TEXTS = [
    "Hello, world!",
    "Hi!",
    "Yes.",
    "",
    " ",
    "  two  spaces  ",
    "The quick brown fox jumps over the lazy dog.",
    "PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS.",
    "I'm sorry, I can't do that; you'd better ask again.",
    '"Quoted," she said - twice.',
    "Call 0123456789 (extension 42).",
    "twenty-three thousand, four hundred and fifty-six",
    "What time is it?",
    "Ratios: 3:4, 5/6 & 100%.",
    "naïve café, jalapeño",
    "Größe, Straße, Übermut",
    "你好",
    "Emoji 🙂 and arrows →",
    "a",
    "An ellipsis... and then more",
    "line\nbreak and\ttab",
    "[STOP] and [START] inside",
    "[SPACE][UNK]",
    "[laughter] in brackets",
    "mississippi",
    "Anna's banana bandana",
    "etaoin shrdlu",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x" * 3 + " " + "q" * 3,
    "Supercalifragilisticexpialidocious is a long word, and this is a longer sentence about it, isn't it?",
]


def main() -> None:
    assert len(set(TEXTS)) == 30
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(tokenizer_json(T3Config())), "utf-8")
        tokenizer = EnTokenizer(str(path))
    ids = {text: tokenizer.text_to_tokens(text)[0].tolist() for text in TEXTS}
    (HERE / "tokenizer.json").write_text(json.dumps(ids, ensure_ascii=False, indent=0) + "\n", "utf-8")


main()
