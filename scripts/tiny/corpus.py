"""The pretraining corpus: plain documents and English chats, never a question answered with SQL."""

import random
from collections.abc import Callable, Iterator

from scripts.tiny import words
from scripts.tiny.query import FAMILIES, random_query
from scripts.tiny.questions import question
from scripts.tiny.schema import PRETRAIN_POOLS, Schema, random_rows, random_schema

BOS, PAD, END = "<|bos|>", "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
ORDINALS = ("first", "second", "third", "fourth", "fifth")
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "You answer questions about tables.")
# Numbers are the hardest to copy, digit by digit, so the queries that hold them come twice as often.
FREQUENT_FAMILIES = (*FAMILIES, "count_number", "select_number", "select_both")
Turns = list[tuple[str, str]]


def document(text: str) -> str:
    """Plain text between its start and end marks."""
    return f"{BOS}{text}{END}"


def chat(rng: random.Random, turns: Turns) -> str:
    """The turns as the chat template writes them."""
    system = f"{SYSTEM}{rng.choice(SYSTEM_PROMPTS)}{END}" if rng.random() < 0.15 else ""
    body = "".join(f"{USER}{user}{END}{ASSISTANT}{assistant}{END}" for user, assistant in turns)
    return f"{BOS}{system}{body}"


def _words(rng: random.Random, low: int, high: int) -> list[str]:
    return [words.any_word(rng) for _ in range(rng.randint(low, high))]


def repeated_list(rng: random.Random) -> str:
    """A list written several times over: the densest lesson in copying."""
    separator = rng.choice((", ", " ", "; ", "', '", " = "))
    listed = separator.join(_words(rng, 3, 8))
    return document("\n".join([listed] * rng.randint(2, 3)))


def key_values(rng: random.Random) -> str:
    """Pairs, then the same pairs in another order, so that a key must find its value."""
    link = rng.choice((" = ", ": ", " is ", " -> "))
    pairs = [(words.any_word(rng), _scalar(rng)) for _ in range(rng.randint(3, 6))]
    again = pairs + rng.sample(pairs, k=len(pairs))
    return document("\n".join(f"{key}{link}{value}" for key, value in again))


def _scalar(rng: random.Random) -> str:
    return str(words.number(rng)) if rng.random() < 0.3 else words.any_word(rng)


def story(rng: random.Random) -> str:
    """Two or three plain English sentences about the same people and things."""
    name, noun, other = rng.choice(words.VALUES), rng.choice(words.NOUNS), rng.choice(words.NOUNS)
    verb, adjective = rng.choice(words.VERBS), rng.choice(words.ADJECTIVES)
    sentences = (
        f"{name} {verb} a {adjective} {noun}.",
        f"The {noun} is near the {other}.",
        f"In the {rng.choice(('morning', 'evening'))} the {other} is {adjective}.",
        f"{name} gives the {noun} to the {rng.choice(words.NOUNS)}.",
        f"It is the {noun} of {name}.",
    )
    return document(" ".join(sentences[: rng.randint(2, 5)]))


def narration(rng: random.Random) -> str:
    """A small table told row by row in English, some facts twice."""
    schema = random_schema(rng, PRETRAIN_POOLS)
    rows = random_rows(rng, schema, rng.randint(2, 3), words.pseudo_word)
    facts = [
        f"Row {place} of {schema.table} has {column} {value}."
        for place, row in enumerate(rows, 1)
        for column, value in zip(schema.columns, row, strict=True)
    ]
    return document("\n".join([schema.prompt(), *facts, *rng.sample(facts, k=2)]))


def queries(rng: random.Random) -> str:
    """A schema, its rows, and stand-alone SQL over it, as SQL files hold them."""
    schema = random_schema(rng, PRETRAIN_POOLS)
    rows = random_rows(rng, schema, rng.randint(2, 4), words.pseudo_word)
    head = rng.choice((schema.prompt(), schema.prompt(), schema.create_sql()))
    lines = [head, schema.insert_sql(rows)]
    for _ in range(rng.randint(3, 6)):
        lines.append(random_query(rng, schema, rng.choice(FREQUENT_FAMILIES), rows).sql() + ";")
    return document("\n".join(lines))


def repeat_chat(rng: random.Random) -> str:
    """Words to say again."""
    listed = " ".join(_words(rng, 1, 6))
    return chat(rng, [(f"{rng.choice(('Repeat:', 'Say', 'Write again:'))} {listed}", listed)])


def position_chat(rng: random.Random) -> str:
    """Which word stands at a place in a list."""
    items = _words(rng, 3, 5)
    turns = []
    for place in rng.sample(range(len(items)), k=2):
        turns.append((f"Which word is {ORDINALS[place]} in {', '.join(items)}?", items[place]))
    return chat(rng, turns)


def lookup_chat(rng: random.Random) -> str:
    """Facts, then questions about single ones."""
    facts = {words.any_word(rng): _scalar(rng) for _ in range(rng.randint(3, 6))}
    told = " ".join(f"{key} is {value}." for key, value in facts.items())
    asked = rng.sample(sorted(facts), k=2)
    turns = [(f"What is {key}?", f"{key} is {facts[key]}.") for key in asked]
    return chat(rng, [(f"{told}\n{turns[0][0]}", turns[0][1]), turns[1]])


def letters_chat(rng: random.Random) -> str:
    """Spelling, case and reversal."""
    word = words.pseudo_word(rng) if rng.random() < 0.5 else rng.choice(words.NOUNS)
    items = _words(rng, 2, 4)
    return chat(
        rng,
        [
            rng.choice(
                (
                    (f"Spell {word}.", " ".join(word)),
                    (f"Write {word} in upper case.", word.upper()),
                    (f"Write {word.upper()} in lower case.", word.lower()),
                    (f"Reverse: {' '.join(items)}", " ".join(reversed(items))),
                )
            )
        ],
    )


def table_chat(rng: random.Random) -> str:
    """Questions about a table whose rows are shown, answered in English."""
    schema = random_schema(rng, PRETRAIN_POOLS)
    rows = random_rows(rng, schema, rng.randint(2, 3), words.pseudo_word)
    shown = "; ".join(", ".join(str(value) for value in row) for row in rows)
    turns = []
    for _ in range(2):
        place, column = rng.randrange(len(rows)), rng.randrange(len(schema.columns))
        name, value = schema.columns[column], rows[place][column]
        cell = f"{name} in row {place + 1}"
        turns.append((f"What is the {cell}?", f"The {cell} is {value}."))
    first = f"{schema.prompt()}\nRows: {shown}\n{turns[0][0]}"
    return chat(rng, [(first, turns[0][1]), turns[1]])


def schema_chat(rng: random.Random) -> str:
    """Questions about the schema itself, answered in English."""
    schema = random_schema(rng, PRETRAIN_POOLS)
    asked = rng.sample(_schema_facts(rng, schema), k=2)
    return chat(rng, [(f"{schema.prompt()}\n{asked[0][0]}", asked[0][1]), asked[1]])


def _schema_facts(rng: random.Random, schema: Schema) -> Turns:
    column = rng.choice(schema.columns)
    kind = "text" if column in schema.text else "a number"
    return [
        ("What is the table called?", f"The table is called {schema.table}."),
        ("Which columns are there?", f"The columns are {', '.join(schema.columns)}."),
        ("Which columns hold text?", f"{', '.join(_in_order(schema, schema.text))}."),
        ("Which columns hold numbers?", f"{', '.join(_in_order(schema, schema.numbers))}."),
        (f"Is {column} text or a number?", f"{column} is {kind}."),
    ]


def _in_order(schema: Schema, names: tuple[str, ...]) -> list[str]:
    return [column for column in schema.columns if column in names]


def restatement_chat(rng: random.Random) -> str:
    """A question with no rows to answer it from: the assistant says in English what is asked."""
    schema = random_schema(rng, PRETRAIN_POOLS)
    asked = [random_query(rng, schema, rng.choice(FREQUENT_FAMILIES)) for _ in range(rng.choice((1, 1, 2)))]
    turns = [(question(rng, query), f"You ask for {query.english()}.") for query in asked]
    return chat(rng, [(f"{schema.prompt()}\n{turns[0][0]}", turns[0][1]), *turns[1:]])


MIXTURE: dict[Callable[[random.Random], str], int] = {
    repeated_list: 8,
    key_values: 8,
    story: 3,
    narration: 6,
    queries: 22,
    repeat_chat: 8,
    position_chat: 4,
    lookup_chat: 8,
    letters_chat: 3,
    table_chat: 6,
    schema_chat: 8,
    restatement_chat: 26,
}


def documents(seed: int) -> Iterator[str]:
    """An endless stream of documents, the same for the same seed."""
    rng = random.Random(seed)
    kinds, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        for kind in rng.choices(kinds, weights, k=64):
            yield kind(rng)
