"""Markdown and HTML marks: where they are, so that they are passed over in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"[ \t]{0,12}+(?:"
    r"(?P<heading>#{1,6}[ \t]++)"
    r"|(?P<rule>(?:[-*_=|:][ \t]?){3,}+(?=\n|\Z))"
    r"|(?P<fence>(?:```|~~~)[A-Za-z0-9+#._-]{0,30}[ \t]*+(?=\n|\Z))"
    r"|(?P<item>[-*+•][ \t]{1,4}(?:\[[ xX]\][ \t])?)"
    r"|(?P<number>(?=\d{1,3}[.)][ \t]))"
    r"|(?P<quote>(?:>[ \t]?){1,8})"
    r"|(?P<row>\|[ \t]*+)"
    r")"
)
_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,300})\](\((?:[^()\s]{0,1000}(?:\([^()\s]{0,100}\)[^()\s]{0,100})?)(?:\s\"[^\"\n]{0,200}\")?\))"
)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,15})(?:\s[^<>\n]{0,300})?/?>|<!--[^<>]{0,300}-->")
_FOOTNOTE = re.compile(r"\[\^?\d{1,3}\](?!\()")
_BREAKING_TAGS = frozenset({"br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "ul", "ol"})


@dataclass(frozen=True)
class LineMark:
    """A mark at the start of a line that ends at `end`; a `block` is a sentence of its own, and a `whole` line is silent."""

    end: int
    block: bool
    whole: bool


@dataclass(frozen=True)
class Link:
    """`[label](target)`: the label's start and end, and the end of the whole."""

    label: int
    label_end: int
    end: int


def line_mark(text: str, at: int) -> LineMark | None:
    """The mark of the line that begins at `at`."""
    found = _LINE.match(text, at)
    if not found:
        return None
    return LineMark(found.end(), found.lastgroup != "quote", found.lastgroup in ("rule", "fence"))


def link(text: str, at: int) -> Link | None:
    """The link or image at `at`."""
    found = _LINK.match(text, at)
    return Link(found.start(1), found.end(1), found.end()) if found else None


def tag(text: str, at: int) -> tuple[int, bool] | None:
    """End of the HTML tag or comment at `at`, and whether it breaks the line."""
    found = _TAG.match(text, at)
    return (found.end(), (found[2] or "").lower() in _BREAKING_TAGS) if found else None


def footnote(text: str, at: int) -> int | None:
    """End of the footnote mark "[1]" at `at`."""
    found = _FOOTNOTE.match(text, at)
    return found.end() if found else None
