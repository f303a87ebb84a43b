"""Sentences as a language model writes them, with figures, dates, names and signs; the package's normaliser speaks them.

Filled from templates like those of `text`, with wider slots: names of people and places from WordNet, numbers of every kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from training import text
from training.wordnet import WordNet

Slot = Callable[[random.Random], str]


def slots(net: WordNet) -> dict[str, Slot]:
    """What fills a template's braces."""

    def person(chooser: random.Random) -> str:
        kind = chooser.random()
        if kind < 0.5:
            return chooser.choice(_FIRST)
        return chooser.choice(net.people) if kind < 0.75 else f"{chooser.choice(_FIRST)} {_surname(chooser, net)}"

    def address(chooser: random.Random) -> str:
        street = chooser.choice(("St.", "Ave.", "Road", "Blvd.", "Lane", "Drive"))
        return f"{chooser.randint(1, 2500)} {_surname(chooser, net)} {street}"

    return {
        "person": person,
        "first": lambda chooser: chooser.choice(_FIRST),
        "surname": lambda chooser: _surname(chooser, net),
        "titled": lambda chooser: f"{chooser.choice(('Dr.', 'Mr.', 'Mrs.', 'Ms.', 'Prof.'))} {_surname(chooser, net)}",
        "place": lambda chooser: chooser.choice(net.places),
        "word": lambda chooser: chooser.choice(net.words),
        "common": lambda chooser: chooser.choice(net.words[:2000]),
        "address": address,
        "n": _number,
        "small": lambda chooser: str(chooser.randint(2, 20)),
        "money": _money,
        "time": _time,
        "date": _date,
        "phone": _phone,
        "percent": lambda chooser: f"{_decimal(chooser)}%",
        "amount": lambda chooser: f"{_decimal(chooser)} {chooser.choice(_UNITS)}",
        "ordinal": lambda chooser: _ordinal(chooser.randint(1, 120)),
        "year": lambda chooser: str(chooser.randint(1700, 2099)),
        "code": _code,
        "spelled": lambda chooser: " ".join(chooser.choice(text.CHARACTERS[:26]) for _ in range(chooser.randint(2, 6))),
        "mail": _mail,
        "site": lambda chooser: f"{chooser.choice(('www.', ''))}{chooser.choice(net.words[:4000])}.{chooser.choice(_ENDINGS)}",
        "fraction": lambda chooser: chooser.choice(("1/2", "1/3", "2/3", "1/4", "3/4", "1/5", "3/8", "5/8")),
        "temperature": lambda chooser: f"{chooser.randint(-20, 110)}°{chooser.choice('CF')}",
        "item": lambda chooser: chooser.choice(text.ITEMS),
        "thing": lambda chooser: chooser.choice(text.THINGS),
        "verb": lambda chooser: chooser.choice(text.VERBS),
        "adj": lambda chooser: chooser.choice(text.ADJECTIVES),
        "day": lambda chooser: chooser.choice(text.DAYS).capitalize(),
    }


def written(chooser: random.Random, known: dict[str, Slot]) -> str:
    """One sentence."""
    return re.sub(r"\{(\w+)\}", lambda found: known[found[1]](chooser), chooser.choice(_TEMPLATES))


def _surname(chooser: random.Random, net: WordNet) -> str:
    return chooser.choice(net.people).split()[-1] if chooser.random() < 0.5 else chooser.choice(text.SURNAMES).capitalize()


def _number(chooser: random.Random) -> str:
    top = chooser.choice((20, 100, 100, 1000, 1000, 10_000, 100_000, 10_000_000))
    value = chooser.randint(0, top)
    return f"{value:,}" if value > 9999 or (value > 999 and chooser.random() < 0.5) else str(value)


def _decimal(chooser: random.Random) -> str:
    whole = chooser.randint(0, chooser.choice((10, 100, 500)))
    return str(whole) if chooser.random() < 0.5 else f"{whole}.{chooser.randint(1, 99)}"


def _ordinal(value: int) -> str:
    ending = "th" if value // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def _money(chooser: random.Random) -> str:
    value = chooser.randint(1, chooser.choice((20, 100, 1000, 20_000)))
    cents = f".{chooser.randint(1, 99):02d}" if chooser.random() < 0.5 else ""
    return f"{chooser.choice('$$$$€£')}{value:,}{cents}"


def _time(chooser: random.Random) -> str:
    hour = chooser.randint(1, 12)
    minute = chooser.choice((0, 0, 15, 30, 45, 5, chooser.randint(1, 59)))
    part = chooser.choice((" AM", " PM", " a.m.", " p.m.", "am", "pm"))
    if minute == 0 and chooser.random() < 0.6:
        return f"{hour}{part}" if chooser.random() < 0.7 else f"{hour} o'clock"
    if chooser.random() < 0.2:
        return f"{chooser.randint(0, 23)}:{minute:02d}"
    return f"{hour}:{minute:02d}{part}"


def _date(chooser: random.Random) -> str:
    day, year, month = chooser.randint(1, 28), chooser.randint(1900, 2040), chooser.choice(text.MONTHS).capitalize()
    return chooser.choice(
        (
            f"{month} {day}",
            f"{month} {_ordinal(day)}",
            f"{month} {day}, {year}",
            f"{month[:3]}. {day}, {year}",
            f"the {_ordinal(day)} of {month}",
            f"{chooser.randint(1, 12)}/{day}/{year}",
            f"{chooser.choice(text.DAYS).capitalize()}, {month} {_ordinal(day)}",
            f"{month} {year}",
        )
    )


def _phone(chooser: random.Random) -> str:
    parts = chooser.randint(200, 999), chooser.randint(200, 999), chooser.randint(0, 9999)
    return chooser.choice(("{}-{}-{:04d}", "({}) {}-{:04d}", "+1 {} {} {:04d}")).format(*parts)


def _code(chooser: random.Random) -> str:
    letters = "".join(chooser.choice(text.CHARACTERS[:26].upper()) for _ in range(chooser.randint(1, 3)))
    digits = str(chooser.randint(0, 9999))
    return chooser.choice((f"{letters}{digits}", f"{letters}-{digits}", f"{digits}{letters}", f"{letters} {digits}"))


def _mail(chooser: random.Random) -> str:
    name = chooser.choice(_FIRST).lower()
    user = chooser.choice((name, f"{name}.{chooser.choice(text.SURNAMES)}", f"{name}{chooser.randint(1, 99)}"))
    return f"{user}@{chooser.choice(('gmail', 'outlook', 'yahoo', 'example', 'mail', 'company'))}.{chooser.choice(_ENDINGS)}"


_ENDINGS = ("com", "com", "com", "org", "net", "edu", "io")
_UNITS = text.word_list("kg km miles lb oz ml GB MB cm mph hours minutes kWh inches feet L mg")
_FIRST = text.word_list(
    "Aaron Abigail Adam Adrian Aisha Alan Albert Alejandro Alex Alice Alicia Alison Amanda Amber Amy Ana Andrea Andrew "
    "Angela Anita Anna Anne Anthony Antonio April Arthur Ashley Audrey Barbara Beatrice Ben Benjamin Bernard Beth Betty "
    "Beverly Bill Bob Bonnie Brandon Brenda Brian Bridget Bruce Caitlin Calvin Cameron Carl Carla Carlos Carmen Carol "
    "Caroline Catherine Cecilia Charles Charlotte Chloe Chris Christina Christopher Claire Clara Colin Connor Craig Crystal "
    "Cynthia Daisy Dana Daniel Danielle Daphne David Dawn Dean Deborah Denise Dennis Derek Diana Diane Diego Dominic Donald "
    "Donna Doris Dorothy Douglas Dylan Edgar Edith Edward Eileen Elaine Eleanor Elena Elias Elizabeth Ella Ellen Emily Emma "
    "Eric Erica Erin Esther Ethan Eugene Eva Evan Evelyn Faith Fatima Felix Fiona Florence Frances Francis Frank Fred "
    "Gabriel Gary Gavin George Gerald Gina Gloria Gordon Grace Graham Greg Hannah Harold Harriet Harry Harvey Hazel Heather "
    "Hector Heidi Helen Henry Holly Howard Hugh Hugo Ian Irene Isaac Isabel Ivan Ivy Jack Jackson Jacob Jacqueline Jade "
    "James Jamie Jane Janet Janice Jared Jasmine Jason Javier Jay Jean Jeff Jeffrey Jennifer Jenny Jeremy Jerry Jesse "
    "Jessica Jill Jim Joan Joanna Joe Joel John Jonathan Jordan Jorge Jose Joseph Joshua Joyce Juan Judith Judy Julia "
    "Julian Julie June Justin Karen Kate Katherine Kathleen Keith Kelly Ken Kenneth Kevin Kim Kimberly Kyle Larry Laura "
    "Lauren Lawrence Leah Lee Leo Leon Leonard Leslie Liam Linda Lisa Liz Logan Lorraine Louis Louise Lucas Lucy Luis Luke "
    "Lydia Lynn Mackenzie Madison Maggie Marcus Margaret Maria Marie Marilyn Mario Mark Martha Martin Mary Mason Matt "
    "Matthew Maureen Max Maya Megan Melanie Melissa Michael Michelle Miguel Mike Mohammed Molly Monica Morgan Nancy Naomi "
    "Natalie Nathan Neil Nicholas Nicole Nigel Nina Noah Nora Norman Olga Olivia Omar Oscar Owen Pamela Patricia Patrick "
    "Paul Paula Pedro Penny Peter Philip Phoebe Priya Rachel Ralph Ray Raymond Rebecca Renee Richard Rita Robert Robin "
    "Roger Ronald Rosa Rose Ross Roy Ruby Russell Ruth Ryan Sally Sam Samantha Samuel Sandra Sara Sarah Scott Sean Sergio "
    "Shannon Sharon Sheila Shirley Silvia Simon Sonia Sophia Sophie Stacy Stanley Stella Stephanie Stephen Steve Steven "
    "Stuart Sue Susan Suzanne Sylvia Tanya Tara Ted Teresa Terry Theodore Theresa Thomas Tim Tina Todd Tom Tony Tracy "
    "Trevor Tyler Valerie Vanessa Vera Veronica Victor Victoria Vincent Violet Virginia Vivian Walter Wanda Warren Wayne "
    "Wendy William Xavier Yasmin Yolanda Yusuf Yvonne Zachary Zoe"
)
_TEMPLATES = tuple(
    """Hi {person}, thanks for calling {word} support.
Hello {titled}, this is {first} from the {word} department.
You're speaking with {person}.
I've added {person} to the call.
{person} from {place} is on the line.
My name is {person}, and I live in {place}.
Your total is {money}.
That comes to {money}, including {money} in tax.
The price went from {money} to {money}.
You'll save {percent} if you order before {date}.
We charged {money} to your card on {date}.
It costs about {money} per {common}.
Your appointment is on {date} at {time}.
The flight from {place} to {place} departs at {time}.
The train arrives in {place} at {time} on {date}.
It's {time} in {place} right now.
The meeting with {person} has been moved to {time}.
Can you come at {time} or {time}?
We're open from {time} to {time}, {day} through {day}.
It was founded on {date} in {place}.
In {year}, {person} moved to {place}.
{person} was born in {year} and died in {year}.
The deadline is {date}.
You can reach us at {phone}.
Please call {phone} and ask for {person}.
Send it to {mail}, please.
You can visit {site} for more information.
My email address is {mail}.
The address is {address}, {place}.
Turn left on {address} and go {amount}.
Your confirmation code is {code}.
Your order {code} has shipped.
Flight {code} is delayed by {small} minutes.
The license plate is {code}.
That's spelled {spelled}.
Let me spell that: {spelled}.
It weighs {amount} and is {amount} long.
The distance to {place} is {amount}.
The temperature in {place} is {temperature}.
Expect a high of {temperature} and a low of {temperature}.
About {fraction} of them were {adj}.
Add {fraction} cup of {word} and stir.
You finished in {ordinal} place.
It's the {ordinal} time this week.
There were {n} people in {place}.
The answer is {n}.
I counted {n}, not {n}.
{n} plus {n} equals {n}.
Room {n} is on the {ordinal} floor.
The population grew by {percent} to {n}.
Your score is {n} out of {n}.
Chapter {small}, page {n}.
I have {n} messages, {small} of them from {person}.
Your balance is {money}, and {money} is due on {date}.
The word is {word}.
What does {word} mean?
I said {word}, not {word}.
Did you mean {word} or {word}?
I found {small} results for {word} {word}.
I'll {verb} the {word} {item} for you.
The {word} is very {word}.
She told {person} about the {word}.
Would you like {word}, {word}, or {word}?
First, the {word}. Second, the {word}.
That's a {adj} question about {word}.
Playing {word} by {person}.
Here is what I found about {person}.
The capital of {place} is {place}.
{place} is north of {place}.
I'm not sure, but I think it's {word}.
{person}, {person} and {person} will join us.
Ask {titled} about the {word} {thing}.
I'd say the {word} is {adj}, e.g. in {place}.
Let me check the {word} {thing} for {titled}.
So, to confirm, that's {small} {item}s for {money}, delivered to {address}, on {date}.
Okay {first}, I've booked {small} seats for {time}.
Could you repeat the last {small} digits?
The first one is {n}, the second is {n}.
Sure! I can {verb} your {thing} by {day}.
I'm afraid {person} isn't available until {time}.
It looks like your {thing} expires on {date}.
Our {word} team in {place} will call you at {phone}.
You have {small} hours and {n} minutes left.
Go {amount} and then take the {ordinal} exit.
Take {amount} of it every {small} hours.
Your {thing} number {code} is {adj}.""".splitlines()
)
