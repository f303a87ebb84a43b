"""Sentences to train on: what a voice agent says, from templates, in spoken form.

Which side a sentence belongs to is decided by a digest of its words, so that no held-out sentence is ever trained on, whatever
was generated when. Knows nothing of speech.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Literal

from num2words import num2words

Side = Literal["train", "held_out"]

CHARACTERS = "abcdefghijklmnopqrstuvwxyz ',.?!-"
MAX_CHARACTERS = 110
_HELD_OUT_SHARE = 0.02
_REPEATED = 18


def sentences(side: Side, seed: int = 0) -> Iterator[str]:
    """Endless sentences of one side, none of more than `_REPEATED` characters twice.

    Lower case, numbers in words, `CHARACTERS` only.
    """
    chooser = random.Random(f"{side}/{seed}")
    seen: set[str] = set()
    while True:
        text = _sentence(chooser)
        if (len(text) <= _REPEATED or text not in seen) and len(text) <= MAX_CHARACTERS and side_of(text) == side:
            seen.add(text)
            yield text


def side_of(text: str) -> Side:
    """Where a sentence belongs; punctuation and case do not matter."""
    words = " ".join(re.findall(r"[a-z']+", text.lower()))
    digest = hashlib.sha256(words.encode()).digest()
    return "held_out" if int.from_bytes(digest[:4], "big") < _HELD_OUT_SHARE * 2**32 else "train"


def _sentence(chooser: random.Random) -> str:
    draw = chooser.random()
    if draw < 0.04:
        return chooser.choice(SHORT)
    if draw < 0.09:
        return _words(chooser)
    text = _fill(chooser.choice(_TEMPLATES), chooser)
    if chooser.random() < 0.15:
        text = f"{chooser.choice(_OPENERS)} {text}"
    return text


def _words(chooser: random.Random) -> str:
    """A run of words without grammar: what follows a word must not be guessed from it."""
    pool = (NAMES, THINGS, ITEMS, CITIES, ADJECTIVES, VERBS, _RELATIVES, _WEATHER, MONTHS, DAYS)
    return " ".join(chooser.choice(chooser.choice(pool)) for _ in range(chooser.randint(2, 7))) + "."


def _fill(template: str, chooser: random.Random) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: _SLOTS[found[1]](chooser), template)


def _number(value: int, ordinal: bool = False) -> str:
    words = num2words(value, to="ordinal" if ordinal else "cardinal")
    return words.replace("-", " ").replace(",", "").replace(" and ", " ")


def _digits(chooser: random.Random) -> str:
    return " ".join(_number(chooser.randint(0, 9)) for _ in range(chooser.randint(3, 6)))


def _any_number(chooser: random.Random) -> str:
    low, high = chooser.choice([(1, 12), (2, 99), (2, 99), (100, 999)])
    return _number(chooser.randint(low, high))


def _large(chooser: random.Random) -> str:
    low, high = chooser.choice([(100, 999), (1000, 9999), (1000, 99999)])
    return _number(chooser.randint(low, high))


def _date(chooser: random.Random) -> str:
    day, month, weekday = _number(chooser.randint(1, 31), True), chooser.choice(MONTHS), chooser.choice(DAYS)
    return chooser.choice(
        [
            f"{month} {day}",
            f"{weekday}, {month} {day}",
            f"the {day} of {month}",
            f"next {weekday}",
            weekday,
            f"{weekday} {chooser.choice(_DAYTIMES)}",
            "tomorrow",
            "today",
        ]
    )


def _time(chooser: random.Random) -> str:
    hour, minute = _number(chooser.randint(1, 12)), chooser.choice([0, 0, 15, 30, 45, 10, 20, chooser.randint(1, 59)])
    past = "" if minute == 0 else f" {'oh ' if minute < 10 else ''}{_number(minute)}"
    part = chooser.choice(["a.m.", "p.m.", "in the morning", "in the afternoon", "tonight"])
    return chooser.choice([hour + (past or " o'clock"), f"{hour}{past} {part}", f"half past {hour}", f"a quarter to {hour}"])


def _price(chooser: random.Random) -> str:
    dollars = f"{_number(chooser.randint(2, 200))} dollars"
    return chooser.choice([dollars, f"{dollars} and {_number(chooser.randint(5, 99))} cents"])


def _letters(chooser: random.Random) -> str:
    return " ".join(chooser.choice(CHARACTERS[:26]) for _ in range(chooser.randint(2, 4)))


def _one_of(words: tuple[str, ...]) -> Callable[[random.Random], str]:
    return lambda chooser: chooser.choice(words)


def word_list(words: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in words.split())


NAMES = word_list(
    "james mary john patricia robert jennifer michael linda david elizabeth william barbara richard susan joseph jessica "
    "thomas sarah charles karen anna peter lucy mark paul emma oliver sophia daniel grace henry alice sam kate ben julia tom "
    "laura jack nina alex maria george helen frank rosa adam clara simon eva martin ruth"
)
SURNAMES = word_list(
    "smith johnson brown taylor wilson davis clark lewis walker hall young king wright scott green baker adams nelson hill "
    "campbell mitchell roberts carter phillips evans turner parker collins edwards stewart morris murphy cook rogers morgan "
    "cooper bailey reed kelly howard ward"
)
MONTHS = word_list("january february march april may june july august september october november december")
DAYS = word_list("monday tuesday wednesday thursday friday saturday sunday")
_DAYTIMES = word_list("morning afternoon evening")
CITIES = word_list(
    "london paris boston chicago denver seattle austin dallas houston miami atlanta portland phoenix berlin madrid rome tokyo "
    "sydney toronto dublin oslo vienna new_york los_angeles san_francisco washington"
)
ITEMS = word_list(
    "laptop phone printer keyboard coffee_maker blue_jacket pair_of_shoes winter_coat book camera headset monitor desk_lamp "
    "office_chair train_ticket hotel_room rental_car table_for_two gift_card water_bottle suitcase bicycle guitar sofa "
    "washing_machine refrigerator toaster red_dress backpack watch tablet charger battery screen"
)
THINGS = word_list(
    "account order booking appointment payment subscription delivery invoice password address reservation refund ticket "
    "request flight package policy contract balance plan profile message call meeting schedule card statement report file "
    "document"
)
VERBS = word_list(
    "check change cancel confirm update review track find open close send move schedule verify complete start stop print share "
    "delete restore renew transfer"
)
ADJECTIVES = word_list(
    "new old great good small large quick simple free early late important special different possible available local current "
    "correct full empty open ready happy safe clean quiet warm cold cheap expensive"
)
_WEATHER = word_list("sunny cloudy rainy windy snowy foggy clear stormy warm cold humid dry")
_RELATIVES = word_list(
    "brother sister mother father friend manager doctor teacher neighbor partner son daughter boss wife husband"
)
_JOBS = (*_RELATIVES, *word_list("driver nurse lawyer writer farmer singer painter engineer"))
_OPENERS = ("okay.", "sure.", "well,", "so,", "right.", "great!", "thanks.", "yes.", "no.", "i see.", "perfect.")
SHORT = (
    *(
        "hi!",
        "hello.",
        "yes.",
        "no.",
        "okay.",
        "okay, sure.",
        "sure.",
        "of course.",
        "thank you.",
        "thanks!",
        "goodbye.",
        "bye!",
    ),
    *(
        "one moment.",
        "got it.",
        "all right.",
        "i see.",
        "great!",
        "perfect.",
        "sorry?",
        "pardon?",
        "please wait.",
        "no problem.",
    ),
    *("good morning.", "good evening.", "you're welcome.", "maybe.", "not yet.", "right away.", "sounds good.", "hello there."),
    *("no problem.", "bye!"),
)

_SLOTS: dict[str, Callable[[random.Random], str]] = {
    "name": _one_of(NAMES),
    "surname": _one_of(SURNAMES),
    "full": lambda chooser: f"{chooser.choice(NAMES)} {chooser.choice(SURNAMES)}",
    "titled": lambda chooser: f"{chooser.choice(('mister', 'miss', 'doctor'))} {chooser.choice(SURNAMES)}",
    "n": _any_number,
    "small": lambda chooser: _number(chooser.randint(2, 20)),
    "large": _large,
    "digits": _digits,
    "date": _date,
    "time": _time,
    "price": _price,
    "degrees": lambda chooser: f"{_number(chooser.randint(2, 99))} degrees",
    "letters": _letters,
    "day": _one_of(DAYS),
    "daytime": _one_of(_DAYTIMES),
    "city": _one_of(CITIES),
    "item": _one_of(ITEMS),
    "thing": _one_of(THINGS),
    "verb": _one_of(VERBS),
    "adj": _one_of(ADJECTIVES),
    "weather": _one_of(_WEATHER),
    "relative": _one_of(_RELATIVES),
    "job": _one_of(_JOBS),
}

_TEMPLATES = tuple(
    """hello, how can i help you today?
hello! this is the first sentence of your voice agent.
hi {name}, how can i help you?
good {daytime}, this is {name} speaking.
good {daytime}, thank you for calling. how may i help you?
thank you for calling, {name}.
thanks {name}. i will {verb} your {thing} now.
sure, i can {verb} that for you.
sure, let me {verb} your {thing}.
of course. what is your {thing} number?
could you please tell me your {thing} number?
can you repeat that, please?
i'm sorry, i didn't catch that.
sorry, i did not understand. could you say it again?
i'm sorry to hear that, {name}.
your {thing} number is {digits}.
your order number is {digits}, {digits}.
the total comes to {price}.
that will be {price}, please.
the {item} costs {price}.
your {thing} will arrive on {date}.
your {thing} is {adj}.
your {thing} is confirmed for {date} at {time}.
your appointment with {titled} is on {date} at {time}.
i have booked a {item} for {date}.
would you like to {verb} your {thing}?
do you want me to {verb} the {thing}?
did you {verb} the {thing} on {date}?
the weather in {city} is {weather} today, with a high of {degrees}.
it is {degrees} and {weather} in {city}.
tomorrow will be {weather} with a low of {degrees}.
it is {time}.
the time is now {time}.
the meeting starts at {time} in room {n}.
there are {n} people in the {adj} room.
we have {n} {adj} options for you.
you have {small} new messages.
you have {n} unread messages from {name}.
your flight to {city} leaves at {time} from gate {n}.
the train from {city} to {city} leaves at {time}.
the next bus to {city} is in {small} minutes.
please hold while i {verb} your {thing}.
one moment, please.
just a second, i'm looking that up.
okay, i will do that right away.
alright, {name}, is there anything else i can do for you?
is there anything else i can help you with?
have a great day!
have a nice {daytime}, {name}.
goodbye, and thank you for calling.
what time would you like to come in?
which {item} would you like to order?
what is the best phone number to reach you?
how many people will be there on {date}?
where should we send the {item}?
when did you last {verb} your {thing}?
why do you want to {verb} your {thing}?
who should i call about the {thing}?
my name is {full}.
am i speaking with {full}?
{full} called at {time} about the {thing}.
my {relative} lives in {city} and works as a {job}.
your {relative} {name} called you at {time}.
i spoke with your {relative} about the {item}.
i would like a {adj} {item}, please.
we do not have a {adj} {item} in stock.
the {adj} {item} is on sale for {price}.
remind me to call {name} at {time}.
i set a timer for {small} minutes.
i set an alarm for {time} on {day}.
turn the lights on in the kitchen.
turn off the {item} in the bedroom.
the battery is at {n} percent.
your balance is {price}.
we received your payment of {price} on {date}.
your refund of {price} will take {small} days.
the address is {n} {surname} street, {city}.
please spell your last name.
that is spelled {letters}.
your code is {letters} {digits}.
the population of {city} is about {large}.
it was built in the year {large}.
{large} divided by {small} is {n}.
{n} plus {n} is {n}.
{n} times {small} equals {large}.
yes, that is {adj}.
no, that is not {adj}.
yes, we can {verb} it by {date}.
no problem, {name}. we will {verb} it.
i think the {adj} one is better than the {adj} one.
the {adj} {item} and the {adj} {item} are both {adj}.
let me transfer you to {name} in the sales team.
i can hear you, {name}. please go ahead.
are you still there?
please say yes or no.
first, {verb} your {thing}. then, {verb} the {item}.
if you {verb} the {thing} today, you get {n} percent off.
because of the {weather} weather, your flight is late.
we are open from {time} to {time} on {day}.
we are closed on {day} and {day}.""".splitlines()
)
