"""Text of a language model in finished words: what a speech model can use of it, the moment it can."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from pipecat.utils.text.base_text_aggregator import Aggregation, TextType
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

_FINISHED = re.compile(r"\s*\S+\s+")


class WordAggregator(SimpleTextAggregator):
    """Gives each word of a reply as soon as white space follows it, and sentences outside of replies.

    Pipecat's own modes lose one thing each. Sentences are spoken late. Tokens are spoken at once, but of a first sentence that
    is interrupted nothing reaches the context, because Pipecat counts words as heard only in sentences that are whole. A word
    is never cut in two, so nothing of it could have been spoken earlier.

    Text outside of a reply goes into audio contexts of its own, one for each piece, so there it is kept in sentences.
    """

    def __init__(self, language: str | None = None) -> None:
        super().__init__(aggregation_type=TextType.SENTENCE, language=language)
        self.in_reply = False

    async def aggregate(self, text: str) -> AsyncIterator[Aggregation]:
        """Take more text; give what is finished by it. A line break stays with the word before it."""
        if not self.in_reply:
            async for sentence in super().aggregate(text):
                yield sentence
            return
        self._text += text
        end = 0
        for word in _FINISHED.finditer(self._text):
            end = word.end()
            # Typed "word" it would be kept from RTVI clients, which hear of words from the sentence they are in.
            yield Aggregation(text=word.group().strip(" "), type=TextType.SENTENCE)
        self._text = self._text[end:]
