"""Where our reading differs from the training-time cleaner on purpose: sentence, reason, what we say."""

from __future__ import annotations

OURS_IS_BETTER: dict[str, tuple[str, str]] = {
    "It’s Anna’s book, isn’t it?": (
        "curly quotes become the straight ones that the base model's own punctuation clean-up makes of them",
        "It's Anna's book, isn't it?",
    ),
    "“Curly quotes” are nice.": (
        "curly quotes become the straight ones that the base model's own punctuation clean-up makes of them",
        '"Curly quotes" are nice.',
    ),
    "It costs €5.50 here.": (
        'the peer reads a digit of the cents and leaves the other: "five0"',
        "It costs five euros fifty here.",
    ),
    "It fell by 3.5% then.": ("the peer loses the sign or the decimal point", "It fell by three point five percent then."),
    "Only 1% know.": ("the peer loses the sign or the decimal point", "Only one percent know."),
    "It is 0.5% off.": ("the peer loses the sign or the decimal point", "It is zero point five percent off."),
    "It starts at 3:30pm.": ("the full stop of the sentence is kept", "It starts at three thirty PM."),
    "Come at 10:05 AM.": ("the full stop of the sentence is kept", "Come at ten oh five AM."),
    "See you at 5pm.": ("the full stop of the sentence is kept", "See you at five PM."),
    "Wake up at 7 am.": ("the full stop of the sentence is kept", "Wake up at seven AM."),
    "It ended at 11:59 PM.": ("the full stop of the sentence is kept", "It ended at eleven fifty nine PM."),
    "He called at 3.30 pm.": ("the full stop of the sentence is kept", "He called at three thirty PM."),
    "In 1066 they came.": ("a year of the eleventh century is said in pairs too", "In ten sixty six they came."),
    "It is on January 5, 2024.": (
        "a day is an ordinal and its year is said in pairs",
        "It is on January fifth, twenty twenty four.",
    ),
    "We met on Mar 3.": ("a day is an ordinal and its year is said in pairs", "We met on march third."),
    "She left on Dec 25.": ("a day is an ordinal and its year is said in pairs", "She left on december twenty fifth."),
    "The date is Feb 14.": ("a day is an ordinal and its year is said in pairs", "The date is february fourteenth."),
    "It began on July 4, 1776.": (
        "a day is an ordinal and its year is said in pairs",
        "It began on July fourth, seventeen seventy six.",
    ),
    "He was born on 12 May 1990.": (
        "a day is an ordinal and its year is said in pairs",
        "He was born on the twelfth of May nineteen ninety.",
    ),
    "It opens Tue and Wed.": ("the full stop of the sentence is kept", "It opens tuesday and wednesday."),
    "Come on Sept 1.": ("a day is an ordinal and its year is said in pairs", "Come on september first."),
    "It is due on Aug 15.": ("a day is an ordinal and its year is said in pairs", "It is due on august fifteenth."),
    "Meet me on Fri.": ("the full stop of the sentence is kept", "Meet me on friday."),
    "We close in Nov.": ("the full stop of the sentence is kept", "We close in november."),
    "Mrs. Jones called.": ('"misess" is no word', "missus Jones called."),
    "Use pens, e.g. blue ones.": ('"eg" is no word; the meaning is said', "Use pens, for example blue ones."),
    "The last one, i.e. mine.": ('"ie" is no word; the meaning is said', "The last one, that is mine."),
    "Pens, paper, etc. are there.": ('"etc" is said in full', "Pens, paper, et cetera are there."),
    "Wait a sec please.": ('"sec" without a period is a word of its own', "Wait a sec please."),
    "We like AI, CEO and TTS.": ("the full stop of the sentence is kept", "We like a i, c e o and t t s."),
    "Pages 10-15 are gone.": ('a range is said "to"', "Pages ten to fifteen are gone."),
    "He won 3-2 there.": ('a score is said "to"', "He won three to two there."),
    "It is -5 outside.": ('a sign before a number is said "minus"', "It is minus five outside."),
    "Add 1/2 cup.": ("a fraction is said as one", "Add one half cup."),
    "Eat 3/4 of it.": ("a fraction is said as one", "Eat three quarters of it."),
    "Tom & Ann sing.": ("the sign is said", "Tom and Ann sing."),
    "It is 20°C now.": ("the unit is said", "It is twenty degrees Celsius now."),
    "Send it to me @ work.": ("the sign is said", "Send it to me at work."),
    "Use 2+2 now.": ("the sign is said", "Use two plus two now."),
}
