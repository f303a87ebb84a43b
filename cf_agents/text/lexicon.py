"""What single written forms are spoken as: titles, abbreviations, units, currencies, initialisms. Tables only."""

from __future__ import annotations


def word_set(words: str) -> frozenset[str]:
    """The words of a string, as a set: long tables stay readable."""
    return frozenset(words.split())


MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

MONTH_ABBREVIATIONS = {month[:3]: month for month in MONTHS if month != "may"} | {"sept": "september"}
WEEKDAY_ABBREVIATIONS = {day[:3]: day for day in WEEKDAYS} | {
    "tues": "tuesday", "thur": "thursday", "thurs": "thursday",
}  # fmt: skip
UNSURE_NAMES = frozenset({"jan", "mar", "jun", "sat", "sun"})
"""Short names of months and days that are words or names of their own: expanded only before a period or a number."""

TITLES = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "drs": "doctors", "prof": "professor",
    "rev": "reverend", "gen": "general", "maj": "major", "lt": "lieutenant", "sgt": "sergeant", "capt": "captain",
    "col": "colonel", "cpl": "corporal", "cmdr": "commander", "adm": "admiral", "hon": "honorable", "gov": "governor",
    "sen": "senator", "rep": "representative", "pres": "president", "fr": "father", "mt": "mount", "ft": "fort",
    "st": "saint",
}  # fmt: skip
"""Spoken before a name; their period never ends a sentence."""
SURE_TITLES = frozenset({"mr", "mrs", "ms", "dr", "drs", "sgt", "capt", "lt", "prof"})
"""Titles that are expanded without a period too: they are no words."""

ABBREVIATIONS = {
    "vs": "versus", "etc": "et cetera", "approx": "approximately", "appt": "appointment", "dept": "department",
    "esq": "esquire", "ltd": "limited", "inc": "incorporated", "corp": "corporation", "jr": "junior", "sr": "senior",
    "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane", "hwy": "highway", "apt": "apartment",
    "bldg": "building", "addr": "address", "abbrev": "abbreviation", "abstr": "abstract", "est": "estimated",
    "fig": "figure", "vol": "volume", "ed": "edition", "ch": "chapter", "pp": "pages", "pg": "page", "op": "opus",
    "misc": "miscellaneous", "govt": "government", "assn": "association", "univ": "university", "max": "maximum",
    "min": "minimum", "sec": "second", "hr": "hour", "hrs": "hours", "mins": "minutes", "secs": "seconds",
    "mo": "month", "yr": "year", "yrs": "years", "oz": "ounce", "lb": "pound", "lbs": "pounds", "gal": "gallon",
    "cal": "calorie", "yd": "yard", "tel": "telephone", "ext": "extension", "ref": "reference", "temp": "temperature",
    "avg": "average", "cf": "compare", "ca": "circa", "viz": "namely", "al": "al", "incl": "including",
    "excl": "excluding", "esp": "especially", "tbsp": "tablespoon", "tsp": "teaspoon", "mgr": "manager",
}  # fmt: skip
"""Spoken so when a period follows."""
SURE_ABBREVIATIONS = frozenset({
    "vs", "approx", "appt", "dept", "esq", "ltd", "blvd", "hwy", "bldg", "abbrev", "abstr", "govt", "assn", "hr", "hrs",
    "mins", "secs", "yr", "yrs", "lb", "lbs", "tbsp", "tsp", "etc",
})  # fmt: skip
"""Abbreviations that are expanded without a period too: they are no words."""

DOTTED = {"e.g": "for example", "i.e": "that is", "a.m": "AM", "p.m": "PM", "a.k.a": "also known as"}
SLASHED = {"w/o": "without", "w/": "with", "b/c": "because", "n/a": "not applicable"}

UNITS = {
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "µm": ("micrometer", "micrometers"), "nm": ("nanometer", "nanometers"),
    "mi": ("mile", "miles"), "yd": ("yard", "yards"), "yds": ("yards", "yards"), "ft": ("foot", "feet"),
    "in": ("inch", "inches"), "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"), "µg": ("microgram", "micrograms"), "lb": ("pound", "pounds"),
    "lbs": ("pounds", "pounds"), "oz": ("ounce", "ounces"), "l": ("liter", "liters"), "L": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"), "cl": ("centiliter", "centiliters"),
    "dl": ("deciliter", "deciliters"), "gal": ("gallon", "gallons"), "tbsp": ("tablespoon", "tablespoons"),
    "tsp": ("teaspoon", "teaspoons"), "s": ("second", "seconds"), "sec": ("second", "seconds"),
    "secs": ("seconds", "seconds"), "ms": ("millisecond", "milliseconds"), "µs": ("microsecond", "microseconds"),
    "ns": ("nanosecond", "nanoseconds"), "min": ("minute", "minutes"), "mins": ("minutes", "minutes"),
    "h": ("hour", "hours"), "hr": ("hour", "hours"), "hrs": ("hours", "hours"), "yr": ("year", "years"),
    "yrs": ("years", "years"), "mo": ("month", "months"), "mph": ("mile per hour", "miles per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"), "kmh": ("kilometer per hour", "kilometers per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second"),
    "m²": ("square meter", "square meters"), "km²": ("square kilometer", "square kilometers"),
    "m³": ("cubic meter", "cubic meters"), "ft²": ("square foot", "square feet"),
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "PB": ("petabyte", "petabytes"), "Kbps": ("kilobit per second", "kilobits per second"),
    "kbps": ("kilobit per second", "kilobits per second"), "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"), "MB/s": ("megabyte per second", "megabytes per second"),
    "GB/s": ("gigabyte per second", "gigabytes per second"), "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"), "GW": ("gigawatt", "gigawatts"), "kWh": ("kilowatt hour", "kilowatt hours"),
    "V": ("volt", "volts"), "kV": ("kilovolt", "kilovolts"), "mA": ("milliamp", "milliamps"),
    "mAh": ("milliamp hour", "milliamp hours"), "dB": ("decibel", "decibels"), "kcal": ("kilocalorie", "kilocalories"),
    "cal": ("calorie", "calories"), "J": ("joule", "joules"), "kJ": ("kilojoule", "kilojoules"), "N": ("newton", "newtons"),
    "psi": ("p s i", "p s i"), "rpm": ("r p m", "r p m"), "RPM": ("r p m", "r p m"), 
    "fps": ("frame per second", "frames per second"),
    "ppm": ("part per million", "parts per million"), "mpg": ("mile per gallon", "miles per gallon"),
    "px": ("pixel", "pixels"), "MP": ("megapixel", "megapixels"), "ha": ("hectare", "hectares"),
    "sq ft": ("square foot", "square feet"), "sq m": ("square meter", "square meters"), 
    "fl oz": ("fluid ounce", "fluid ounces"),
    "x": ("time", "times"), "¢": ("cent", "cents"), "hp": ("horsepower", "horsepower"),
}  # fmt: skip
ATTACHED_ONLY = frozenset({"in", "x", "W", "V", "J", "N", "h", "L", "MP", "mo", "px", "ms", "ha", "s", "mi"})
"""Units that are read as units only without a space before them; with one they are words or initials too often."""

CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"), "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}  # fmt: skip
CURRENCY_CODES = {
    "USD": ("dollar", "dollars", "cent", "cents"), "EUR": CURRENCIES["€"], "GBP": CURRENCIES["£"], "JPY": CURRENCIES["¥"],
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"), "INR": CURRENCIES["₹"],
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
}  # fmt: skip

MAGNITUDES = {
    "K": "thousand", "k": "thousand", "M": "million", "m": "million", "mn": "million", "B": "billion", "b": "billion",
    "bn": "billion", "T": "trillion", "tn": "trillion",
}  # fmt: skip
MAGNITUDE_WORDS = ("thousand", "million", "billion", "trillion", "quadrillion", "hundred")

INITIALISMS = word_set(
    "ABC AC AGI AI AKA AMD AMEX API ASR ATM AWS BBC BBQ BMI BMW BST CBS CD CDC CDN CEO CET CFO CIA CLI CMS CNN COO CPR "
    "CPU CRM CSS CST CSV CTO CV DC DHL DIY DJ DMV DNA DNS DOB DOJ DVD EDT EPA ESPN EST ETA EU EV FAA FAQ FBI FDA FM FTP "
    "FYI GDP GDPR GM GMC GMT GP GPA GPS GPT GPU HBO HIV HQ HR HTML HTTP HTTPS IBM ICU IDE IMF IOU IP IPO IQ IRA IRS ISBN "
    "ISO ISP JPG KFC KPI KPMG LCD LED LGBTQ LLC LLM LSD MBA ML MLB MRI MSN MST MTV MVP NBA NBC NFL NGO NHL NHS NLP NPR "
    "NSA NYC NYPD NYU OCD OS PC PDF PDT PHD PHP PMS PNG POV PR PST PTA PTO PTSD QA QR RNA ROI RPG RSVP RV SDK SEO SMS SQL "
    "SSD SSH SSL SSN STD STT SUV TBA TBD TCP TLC TLS TSA TTS TV UAE UFC UFO UI UK UN UPS URL USA USB USD USPS UTC UV UX "
    "VIP VP VPN VR WTF WWE XL XML YMCA"
)
"""Letters that are read one by one although they hold a vowel; capitals without one are read so anyway."""
UNSURE_INITIALISMS = frozenset({"US", "IT", "LA", "MIT"})
"""Initialisms that are words in capitals too: spelled unless the word before them is in capitals."""
CONSONANT_WORDS = frozenset(
    {"HMM", "HM", "SHH", "SH", "PSST", "BRR", "PFFT", "TSK", "NTH", "GRR", "ZZZ", "MR", "MRS", "DR", "ST"}
)
ACRONYMS = {"ASAP": "a sap", "JPEG": "jay peg", "SCSI": "scuzzy", "WYSIWYG": "wizzy wig", "OK": "okay", "ID": "i d"}
"""Capitals with a reading of their own."""

BEFORE_YEAR = word_set(
    "in since from until till by during circa around before after year years to of the early late mid spring summer fall "
    "autumn winter copyright class between"
) | frozenset(MONTHS) | frozenset(MONTH_ABBREVIATIONS)  # fmt: skip
BEFORE_ROMAN = word_set(
    "chapter part act scene volume book section war appendix phase level stage title article type class bowl episode step "
    "grade unit figure table vol fig"
)
REGNAL_NAMES = word_set(
    "henry louis charles george edward james william elizabeth mary john paul pius leo benedict gregory innocent richard "
    "philip ferdinand frederick napoleon nicholas alexander peter catherine ivan otto francis joseph ramses ptolemy "
    "xerxes darius clement urban boniface sixtus ludwig wilhelm gustav christian haakon olaf felipe carlos juan pedro"
)
SYMBOLS = {
    "&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals", "×": "times", "÷": "divided by", "±": "plus or minus",
    "≈": "about", "≠": "is not equal to", "≤": "is at most", "≥": "is at least", "→": "to", "§": "section", 
    "√": "the square root of",
    "∞": "infinity", "°": "degrees", "£": "pounds", "€": "euros", "¥": "yen", "₹": "rupees", "¢": "cents", "µ": "micro",
    "½": "one half", "⅓": "one third", "⅔": "two thirds", "¼": "one quarter", "¾": "three quarters", "²": "squared",
    "³": "cubed",
}  # fmt: skip
VULGAR_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
SOUND_TAGS = word_set(
    "laughter giggle guffaw inhale exhale sigh cry bark howl meow singing music whistle humming gasp groan whisper mumble "
    "sniff sneeze cough snore chew sip clear_throat kiss shhh gibberish UH UM laugh chuckle"
)
"""Square-bracketed sounds that reach the tokenizer as they are written."""
STATES = word_set(
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI "
    "SC SD TN TX UT VT VA WA WV WI WY DC"
)
TOP_LEVEL_DOMAINS = word_set(
    "com org net edu gov io ai co dev app uk us ca de fr eu info me tv biz ly gg xyz tech cloud shop store online site jp cn "
    "in au"
)
