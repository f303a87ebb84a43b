"""What the text stage costs and how it agrees with the training-time cleaner; writes docs/text.md.

Run from the repository root: `python -m benchmarks.text`. Times are the best of 20 repetitions on one thread.
"""

from __future__ import annotations

import json
import platform
import statistics
import timeit
from pathlib import Path

from cf_agents.text.normalise import normalise
from cf_agents.text.segment import Segmenter
from tests.text.better import OURS_IS_BETTER

ROOT = Path(__file__).parents[1]
PLAIN = (
    "I would be glad to help you with that, and I think we can find a time that works for both of us. "
    "Would you like me to check the calendar for next Tuesday at 3, or do you prefer a call in the morning? "
)[:200]
DENSE = (
    "The quick brown fox, who paid $5.20 on Jan. 5, 2024 at 3:30pm, ran 5 km to Dr. Smith's. "
    "Call (555) 123-4567, see https://example.com/a, **note** 50% of 1,234 items & the 1990s; it's 20°C there now. "
)[:200]
MEGABYTE = 1_000_000
EXAMPLES = (
    ("cardinals, ordinals, decimals", "1,234 is the 21st of 3.14"),
    ("ranges, fractions, signs", "10-15 of 2 1/2 at -5"),
    ("currency, magnitudes", "$5.20, $1.5 million, £3k, 5€"),
    ("percent, units", "3.5% of 5km at 60 mph and 20°C"),
    ("dates, years, decades", "Jan. 5, 2024 and 2024-01-15, in the 1990s"),
    ("times", "3:30pm or 15:00"),
    ("phone numbers, long codes", "(555) 123-4567, order 123456"),
    ("titles, abbreviations", "Dr. Smith, 5 Main St., e.g. No. 5 vs. No. 6"),
    ("initialisms, codes, versions", "The CEO of NASA has GPT-4 v2.0.1"),
    ("Roman numerals", "Chapter IV of Henry VIII"),
    ("addresses", "https://www.example.com/docs or me@example.com"),
    ("symbols", "Tom & Ann, 2+2=4, #1, C#"),
    ("markup", "**Bold** `code` [a link](http://x.y) &amp; <b>tags</b>"),
    ("characters", "“It’s” a café 🎉 — well…"),
)


def best_ms(run: object, number: int = 50) -> float:
    assert callable(run)
    return min(timeit.repeat(run, number=number, repeat=20)) / number * 1e3


def token_times_us() -> tuple[float, float]:
    """Microseconds per push of a four-character token: median and 99.9th percentile over 100,000 characters."""
    text = (PLAIN + DENSE) * 250
    segmenter = Segmenter()
    clock = timeit.default_timer
    times = []
    for at in range(0, len(text), 4):
        start = clock()
        segmenter.push(text[at : at + 4])
        times.append((clock() - start) * 1e6)
    return statistics.median(times), sorted(times)[-len(times) // 1000]


def costs() -> list[tuple[str, str]]:
    normalise(PLAIN + DENSE)
    median, rare = token_times_us()
    rows = [
        ("normalise, 200 characters of plain prose", f"{best_ms(lambda: normalise(PLAIN)):.2f} ms"),
        ("normalise, 200 characters dense with numbers and signs", f"{best_ms(lambda: normalise(DENSE)):.2f} ms"),
        ("Segmenter.push of a 4-character token, median / 99.9th percentile", f"{median:.1f} / {rare:.0f} µs"),
    ]
    for name, unit in (("plain prose", PLAIN), ("1", "1"), ("a.", "a."), ("1,", "1,"), ("$", "$")):
        source = (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE]
        spoken_s = min(timeit.repeat(lambda source=source: normalise(source), number=1, repeat=1))
        pushed_s = min(timeit.repeat(lambda source=source: Segmenter().push(source), number=1, repeat=1))
        rows.append((f"a megabyte of `{name}`: normalise / segment", f"{spoken_s:.1f} / {pushed_s:.1f} s"))
    return rows


def page() -> str:
    peer: dict[str, dict[str, str]] = json.loads((ROOT / "tests/goldens/text_parity.json").read_text(encoding="utf-8"))
    lines = [
        "# Text",
        "",
        "Made by `python -m benchmarks.text`. `normalise` turns written English into what the tokenizer gets, with the way",
        "back to the source; `Segmenter` cuts text that arrives in tokens. Both take any string, in time linear in its length.",
        "",
        "## Classes",
        "| class | written | spoken |",
        "|---|---|---|",
        *(f"| {name} | {code(written)} | {normalise(written).text} |" for name, written in EXAMPLES),
        "",
        "## Agreement with the training-time cleaner",
        "The peer is the English cleaner that chatterbox-flash 0.1.0 runs before its tokenizer. Equal means character for",
        "character, once runs of white space are folded to one space.",
        "",
        "| class | sentences | equal | ours on purpose |",
        "|---|---|---|---|",
    ]
    equal_in_all = 0
    for name, group in peer.items():
        equal = sum(normalise(sentence).text == " ".join(spoken.split()) for sentence, spoken in group.items())
        equal_in_all += equal
        lines.append(f"| {name} | {len(group)} | {equal} | {sum(sentence in OURS_IS_BETTER for sentence in group)} |")
    total = sum(map(len, peer.values()))
    lines += [
        f"| all | {total} | {equal_in_all} | {len(OURS_IS_BETTER)} |",
        "",
        "## Where ours differs, and why",
        "| written | peer | ours | reason |",
        "|---|---|---|---|",
        *(
            f"| {code(sentence)} | {spoken} | {OURS_IS_BETTER[sentence][1]} | {OURS_IS_BETTER[sentence][0]} |"
            for group in peer.values()
            for sentence, spoken in group.items()
            if sentence in OURS_IS_BETTER
        ),
        "",
        "## Cost",
        f"One thread, Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in costs()),
    ]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    text = page()
    (ROOT / "docs" / "text.md").write_text(text, encoding="utf-8")
    print(text)
