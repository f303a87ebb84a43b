"""How many tokens the training speech spends on its words, by the rule that tells the decoder of a word it leaves out.

python benchmarks/left_out.py DIR/tokens/train    shards of `python -m training shard`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cf_agents.coverage import FEWEST, Coverage
from cf_agents.text_ids import TextIds
from training.token_data import TokenSet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shards", type=Path, help="folder of training shards")
    spoken = TokenSet(parser.parse_args().shards)
    if not len(spoken):
        parser.error("the folder holds no shard: name the folder tokens/train of a run.")
    words = none = lacking = 0
    for text, begin, count in zip(spoken.texts, spoken.offsets.tolist(), spoken.lengths.tolist(), strict=False):
        each = TextIds(text, tuple(range(len(text) + 2)), (0, *range(len(text)), len(text))).words
        # The start id is in front of the text.
        places = (spoken.place(begin, count) + 1.0).tolist()
        gaps = Coverage(each).gaps(spoken.tokens(begin, count).tolist(), places, ended=True)
        words, none, lacking = words + len(each), none + gaps.words, lacking + gaps.tokens
    print(
        f"{len(spoken)} utterances, {words} words; no token is on {none} of them; all lack {lacking} tokens of {FEWEST} a word"
    )


if __name__ == "__main__":
    main()
