"""The spoken form, class by class."""

from __future__ import annotations

import pytest

from cf_agents.text.normalise import normalise

CASES = {
    "cardinals": [
        ("I have 105 books.", "I have one hundred five books."),
        ("1,234,567 stars", "one million two hundred thirty four thousand five hundred sixty seven stars"),
        ("1500 laps and 2000 tons", "fifteen hundred laps and two thousand tons"),
        ("agent 007", "agent zero zero seven"),
        ("-5 and +5", "minus five and plus five"),
        ("1000000 of 9", "one million of nine"),
        ("5M users, 12k likes", "five million users, twelve thousand likes"),
        ("1" * 20, "one, " + 5 * "one one one, " + "one one one one"),
    ],
    "ordinals and decades": [
        ("the 1st, 22nd and 100th", "the first, twenty second and one hundredth"),
        ("the 1990s, the '80s and the 20s", "the nineteen nineties, the 'eighties and the twenties"),
        ("the 2000s", "the two thousands"),
    ],
    "decimals and fractions": [
        ("3.14 or .5", "three point one four or point five"),
        ("1,234.05", "one thousand two hundred thirty four point zero five"),
        ("1/2, 3/4, 2 1/2 and 2½", "one half, three quarters, two and a half and two and a half"),
        ("9/10 people, 24/7, 1/300", "nine out of ten people, twenty four seven, one over three hundred"),
    ],
    "ranges and arithmetic": [
        ("10-15 or 10–15 or 10 - 15", "ten to fifteen or ten to fifteen or ten to fifteen"),
        ("5 - 3 = 2", "five minus three equals two"),
        ("2+2=4, 3 * 4, 5×6", "two plus two equals four, three times four, five by six"),
        ("5 > 3 and x < 4", "five is greater than three and x is less than four"),
        ("16:9 at 1920x1080", "sixteen to nine at one thousand nine hundred twenty by one thousand eighty"),
        ("10^5 and 1e-6", "ten to the power of five and one times ten to the power of minus six"),
    ],
    "percentages": [("50%, 3.5 %, 5-10%", "fifty percent, three point five percent, five to ten percent")],
    "currency": [
        ("$5, $1, $5.20, $0.99", "five dollars, one dollar, five dollars, twenty cents, ninety nine cents"),
        ("$1.5 million and $3k", "one point five million dollars and three thousand dollars"),
        ("£5.20, €0.50, ¥500", "five pounds twenty, fifty cents, five hundred yen"),
        ("$5-10, $5-$10, -$5", "five to ten dollars, five to ten dollars, minus five dollars"),
        ("20 USD, USD 20, US$20, 5€", "twenty dollars, twenty dollars, twenty dollars, five euros"),
        ("$1,234.56 is due", "one thousand two hundred thirty four dollars, fifty six cents is due"),
        ("$20/month", "twenty dollars per month"),
    ],
    "dates": [
        ("January 5, 2024", "January fifth, twenty twenty four"),
        ("Jan. 5 and Dec 25", "january fifth and december twenty fifth"),
        ("2024-01-15 or 1/15/2024 or 15.01.2024", " or ".join(["january fifteenth, twenty twenty four"] * 3)),
        ("5 May 1990 is the 3rd of May", "the fifth of May nineteen ninety is the third of May"),
        ("on 3/4", "on march fourth"),
        ("Mon-Fri, May 5-7", "monday to friday, May five to seven"),
        ("2024-01-15T10:30:00", "january fifteenth, twenty twenty four at ten thirty"),
    ],
    "years": [
        ("In 1999, by 1905, since 2005", "In nineteen ninety nine, by nineteen oh five, since two thousand five"),
        ("from 1999-2004", "from nineteen ninety nine to two thousand four"),
        ("1914-18", "nineteen fourteen to eighteen"),
        ("in 1900 (1066) and 300 BC", "in nineteen hundred (ten sixty six) and three hundred b c"),
        ("in 1999 dollars", "in one thousand nine hundred ninety nine dollars"),
    ],
    "times": [
        ("3:30pm, 3:30 p.m. today, 5 AM", "three thirty PM, three thirty PM today, five AM"),
        ("15:00, 15:45, 9:05, 9:00", "fifteen hundred, fifteen forty five, nine oh five, nine"),
        ("at 3 p.m. Then we left at 5 p.m.", "at three PM. Then we left at five PM."),
        ("9am-5pm and 9-5", "nine AM to five PM and nine to five"),
        ("0:00", "midnight"),
    ],
    "phone numbers": [
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("+1 555 123 4567", "one, five five five, one two three, four five six seven"),
        ("555-1234", "five five five, one two three four"),
        ("+44 20 7946 0958", "four four, two zero, seven nine four six, zero nine five eight"),
        ("4111 1111 1111 1111", "four one one one, one one one one, one one one one, one one one one"),
        ("order 123456, call 911", "order one two, three four five six, call nine one one"),
    ],
    "abbreviations": [
        ("Mr. and Mrs. Fox, Dr. Ray", "mister and missus Fox, doctor Ray"),
        ("5 Main St. We visit St. Peter.", "five Main street. We visit saint Peter."),
        ("He lives on Main St.", "He lives on Main street."),
        ("pens, e.g. blue, i.e. mine, etc.", "pens, for example blue, that is mine, et cetera."),
        ("No. 5 is #1. No. I go.", "number five is number one. No. I go."),
        ("cats vs. dogs approx. 5 ft. tall", "cats versus dogs approximately five feet tall"),
        ("U.S. Army, J. K. Rowling, Ph.D.", "u s Army, J K Rowling, p h d."),
        ("Meet Tue, Sat. 5 and Jan.", "Meet tuesday, saturday five and january."),
        ("w/o milk, w/ sugar", "without milk, with sugar"),
    ],
    "initialisms and codes": [
        ("The CEO of IBM likes AI", "The c e o of i b m likes a i"),
        ("NASA's APIs in the US", "NASA's a p i's in the u s"),
        ("STOP SHOUTING AT US", "STOP SHOUTING AT US"),
        ("GPT-4, MP3, COVID-19, 5G", "g p t four, m p three, COVID nineteen, five G"),
        ("v2.0.1 of version 1.2.3", "version two point zero point one of version one point two point three"),
        ("192.168.0.1", "one hundred ninety two dot one hundred sixty eight dot zero dot one"),
        ("CA 94105", "CA nine four one zero five"),
    ],
    "roman numerals": [
        ("Chapter IV, World War II", "Chapter four, World War two"),
        ("Henry VIII and Louis XIV", "Henry the eighth and Louis the fourteenth"),
        ("I am in a VI editor", "I am in a VI editor"),
    ],
    "units": [
        ("5km, 10 kg, 1 km, 60 mph", "five kilometers, ten kilograms, one kilometer, sixty miles per hour"),
        ("-5°C, 20 °F, 16 GB", "minus five degrees Celsius, twenty degrees Fahrenheit, sixteen gigabytes"),
        ("2x, 5'10\", 30s, 5-km run", "two times, five foot ten, thirty seconds, five kilometer run"),
        ("5 in the morning", "five in the morning"),
        ("5 km/day at 50 km/h", "five kilometers per day at fifty kilometers per hour"),
    ],
    "addresses": [
        ("See https://www.example.com/docs?x=1.", "See example dot com slash docs."),
        ("Mail john.doe@example.com, please", "Mail john dot doe at example dot com, please"),
        ("node.js and (example.io)", "node dot js and (example dot i o)"),
    ],
    "symbols": [
        ("Tom & Ann @ work, 100% #fun", "Tom and Ann at work, one hundred percent hashtag fun"),
        ("C# or C++ or F#", "C sharp or C plus plus or F sharp"),
        ("well-known, wait - what—now", "well known, wait, what, now"),
        ("a -> b | c", "a to b, c"),
    ],
    "markup": [
        ("**Bold** and *it* and `code_x` ~~old~~", "Bold and it and code x old"),
        ("[a link](http://x.com/a_(b)) ![alt](u) [1]", "a link alt"),
        ("# Title\n\n- one\n- two!\n1. three", "Title. one. two! one. three"),
        ("1. One\n2. Two", "one. One. two. Two"),
        ("| a | b |\n|---|---|\n| c | d |", "a, b. c, d"),
        ("```python\nx\n```\nEnd", "x. End"),
        ("<b>hi</b> there<br>you &amp; me &lt; us", "hi there. you and me us"),
        ("Para one\n\nPara two", "Para one. Para two"),
        ("[laughter] ha", "[laughter] ha"),
    ],
    "characters": [
        ("“It’s” … a ﬁne café, naïve", '"It\'s"... a fine cafe, naive'),
        ("Great 🎉! Yes 👍🏽", "Great! Yes"),
        ("a\u00a0b\u200bc\u2003d", "a bc d"),
        ("1️⃣ ＡＢｃ ٣", "one ABc three"),
        (":smile: hi :) <3", "hi"),
        ("Wow!!! No?? 5!", "Wow! No? five!"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("written", "spoken"), [case for cases in CASES.values() for case in cases])
def test_reading(written: str, spoken: str) -> None:
    assert normalise(written).text == spoken


@pytest.mark.parametrize("blank", ["", " ", "\n\n", "🎉", "** **", "---", "\u200b", "```\n```"])
def test_what_holds_no_words_is_silent(blank: str) -> None:
    spoken = normalise(blank)
    assert spoken.text == ""
    assert [(word.start, word.end) for word in spoken.words] == ([(0, len(blank))] if blank else [])
