"""Word pools, split into those training may use and those kept for held-out schemas."""

import random


def pool(text: str) -> list[str]:
    """The words of a text, in order."""
    return text.split()


TABLES = pool("""books songs films players teams cars houses trips parks shops orders clients boats
planes farms cows dogs cats birds trees flowers plants lamps chairs desks phones games toys cups
plates knives shirts shoes hats coats rings coins stamps letters cards maps roads bridges rivers
lakes hills islands towns schools classes students teachers courses exams doctors nurses patients
drugs visits rooms hotels guests tickets trains buses flights routes pilots ships ports crates
parcels trucks drivers engines wheels tools nails bricks walls doors windows paints pens papers
files servers users posts photos videos artists concerts museums statues prizes races runners
matches goals coaches fans""")
HELD_OUT_TABLES = pool("""recipes guitars castles robots planets wines tractors chefs violins kayaks
dentists tunnels cameras bakeries anchors judges pumps satellites carpets glaciers poems tenants
scooters lighthouses puzzles""")

TEXT_COLUMNS = pool("""name title city country color kind owner brand region genre status material
author street maker shape sport language grade club season flavor category village leader label
series model partner section""")
HELD_OUT_TEXT_COLUMNS = pool("origin composer pattern district sponsor texture nickname habitat")
NUMBER_COLUMNS = pool("""price age weight height year size score speed pages length width points
rating cost stock level rooms seats votes salary distance depth hours wins floors copies power
budget visitors capacity""")
HELD_OUT_NUMBER_COLUMNS = pool("altitude mileage horsepower calories diameter lifespan voltage fee")

CITIES = pool("""Oslo Paris Rome Lima Cairo Tokyo Delhi Quito Berlin Madrid Dublin Vienna Prague Boston
Athens Sofia Seoul Bergen Porto Turin""")
COUNTRIES = pool("""France Spain Italy Poland Turkey India Greece Norway Peru Chile Egypt Japan Kenya
Ireland Canada Brazil Mexico Cuba""")
PEOPLE = pool("""Anna Bob Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nora Oscar Paula
Quinn Rosa Simon Tina Umar Vera Walter Yara Zoe""")
COLORS = pool("red blue green black white yellow orange purple brown gold silver pink")
MATERIALS = pool("wood steel glass stone paper cotton leather plastic copper wool")
DIRECTIONS = pool("north south east west center")
STATES = pool("open closed new old active sold lost ready broken")
SHAPES = pool("round square flat long oval thin wide")
FLAVORS = pool("sweet sour salty bitter fresh spicy mild")
GENRES = pool("jazz rock folk opera drama comedy horror crime poetry history")
SEASONS = pool("spring summer autumn winter")
LANGUAGES = pool("French Spanish German Italian Polish Turkish Hindi Greek Arabic Danish")
LETTER_NAMES = pool("alpha beta gamma delta omega sigma first second third")
SPORTS = pool("tennis soccer hockey chess rowing boxing golf skiing")
ANIMALS = pool("lion tiger eagle falcon shark wolf bear otter")
LANDS = pool("river forest desert coast meadow swamp ocean cave")
KINDS_OF_VALUES = (
    CITIES, COUNTRIES, PEOPLE, COLORS, MATERIALS, DIRECTIONS, STATES, SHAPES, FLAVORS, GENRES,
    SEASONS, LANGUAGES, LETTER_NAMES, SPORTS, ANIMALS, LANDS,
)  # fmt: skip
VALUES = [value for kind in KINDS_OF_VALUES for value in kind]
# Columns not listed here draw from all values.
VALUES_OF = {
    **dict.fromkeys(("city", "village", "district"), CITIES),
    **dict.fromkeys(("country", "origin"), COUNTRIES),
    **dict.fromkeys(("name", "owner", "author", "maker", "leader", "partner", "composer"), PEOPLE),
    **dict.fromkeys(("region", "section"), DIRECTIONS),
    **dict.fromkeys(("grade", "label", "series", "model"), LETTER_NAMES),
    **dict.fromkeys(("material", "texture"), MATERIALS),
    **dict.fromkeys(("shape", "pattern"), SHAPES),
    **dict.fromkeys(("title", "nickname", "brand", "club", "sponsor"), ANIMALS),
    "color": COLORS,
    "status": STATES,
    "flavor": FLAVORS,
    "genre": GENRES,
    "season": SEASONS,
    "language": LANGUAGES,
    "sport": SPORTS,
    "habitat": LANDS,
}

NOUNS = pool("""apple bread cheese stone window garden letter market morning evening river mountain
child friend teacher doctor story song kitchen table summer winter train ticket bridge forest
cloud rain snow fire water paper bottle basket lamp chair door key clock bell boat horse bird fish
dog cat farmer baker king queen""")
VERBS = pool("finds keeps sells buys paints carries opens closes makes breaks likes sees takes hides")
ADJECTIVES = pool("red old small big quiet bright heavy cold warm new broken wooden empty little")

ONSETS = pool("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl pr sh sk sl st th tr")
VOWELS = pool("a e i o u ai ea ee io oo ou")
CODAS = pool("n r s l m d p x ng st rd nd") + [""] * 8
KNOWN = TABLES + TEXT_COLUMNS + NUMBER_COLUMNS + NOUNS
HELD_OUT = frozenset(HELD_OUT_TABLES + HELD_OUT_TEXT_COLUMNS + HELD_OUT_NUMBER_COLUMNS)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def syllable(rng: random.Random) -> str:
    """One invented syllable."""
    return rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)


def soft_word(rng: random.Random) -> str:
    """An invented word that reads well, for the rows people look at."""
    word = "".join(rng.choice("bdklmnrstv") + rng.choice("aeiou") for _ in range(rng.choice((2, 3, 3))))
    return soft_word(rng) if word in HELD_OUT else word


def blend(rng: random.Random) -> str:
    """The front of one known word and the back of another: copying it takes resisting the habit."""
    front, back = rng.choice(KNOWN), rng.choice(KNOWN)
    return front[: rng.randint(2, len(front) - 1)] + back[rng.randint(1, len(back) - 2) :]


def pseudo_word(rng: random.Random) -> str:
    """A word that exists nowhere, so the only way to write it again is to copy it."""
    draw = rng.random()
    if draw < 0.2:
        word = "".join(rng.choices(LETTERS, k=rng.randint(3, 7)))
    elif draw < 0.55:
        word = blend(rng)
    else:
        word = "".join(syllable(rng) for _ in range(rng.choice((1, 2, 2, 2, 3))))
    if word in HELD_OUT:
        return pseudo_word(rng)
    return word.capitalize() if rng.random() < 0.15 else word


def any_word(rng: random.Random) -> str:
    """A word for copying: invented, a number, or known."""
    draw = rng.random()
    if draw < 0.6:
        return pseudo_word(rng) if draw < 0.45 else str(number(rng))
    return rng.choice(rng.choice((TABLES, TEXT_COLUMNS, NUMBER_COLUMNS, VALUES, NOUNS)))


def number(rng: random.Random) -> int:
    """A number of one to three digits, short ones as often as long ones."""
    return rng.randint(1, 10 ** rng.choice((1, 2, 2, 3, 3)) - 1)
