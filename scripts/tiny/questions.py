"""English questions for every query family, several phrasings each, with shared surface words."""

import random

from scripts.tiny.query import Query

SUPERLATIVES = {
    "MAX": ("highest", "largest", "maximum", "biggest"),
    "MIN": ("lowest", "smallest", "minimum"),
    "AVG": ("average", "mean"),
    "SUM": ("total", "summed"),
}
COMPARISONS = {
    ">": ("above", "over", "more than", "greater than"),
    "<": ("below", "under", "less than", "smaller than"),
}
PHRASINGS = {
    "count_all": (
        "How many {t} are there?",
        "Count the {t}.",
        "What is the number of {t}?",
        "What is the total number of {t}?",
        "How many rows are in {t}?",
        "How many rows does {t} have?",
    ),
    "count_text": (
        "How many {t} have {c} {v}?",
        "Count the {t} whose {c} is {v}.",
        "What is the number of {t} with {c} {v}?",
        "For how many {t} is the {c} {v}?",
        "What is the total number of {t} where {c} is {v}?",
    ),
    "count_number": (
        "How many {t} have {n} {op} {x}?",
        "Count the {t} whose {n} is {op} {x}.",
        "What is the number of {t} with {n} {op} {x}?",
        "For how many {t} is the {n} {op} {x}?",
        "What is the total number of {t} where {n} is {op} {x}?",
    ),
    "select_text": (
        "What is the {a} of the {t} whose {c} is {v}?",
        "Show the {a} where {c} is {v}.",
        "List the {a} of the {t} with {c} {v}.",
        "Which {a} do the {t} with {c} {v} have?",
        "Find the {a} for {c} {v}.",
    ),
    "select_number": (
        "What is the {a} of the {t} whose {n} is {op} {x}?",
        "Show the {a} where {n} is {op} {x}.",
        "List the {a} of the {t} with {n} {op} {x}.",
        "Which {a} do the {t} with {n} {op} {x} have?",
        "Find the {a} for {n} {op} {x}.",
    ),
    "select_both": (
        "What is the {a} of the {t} whose {c} is {v} and {n} is {op} {x}?",
        "Show the {a} where {c} is {v} and {n} is {op} {x}.",
        "List the {a} of the {t} with {c} {v} and {n} {op} {x}.",
        "Find the {a} for {c} {v} and {n} {op} {x}.",
    ),
    "aggregate": (
        "What is the {s} {n}?",
        "What is the {s} {n} of the {t}?",
        "Give the {s} {n} over all {t}.",
        "Find the {s} {n} in {t}.",
        "Show the {s} {n} of all {t}.",
    ),
    "aggregate_where": (
        "What is the {s} {n} of the {t} whose {c} is {v}?",
        "What is the {s} {n} where {c} is {v}?",
        "Give the {s} {n} over all {t} with {c} {v}.",
        "Find the {s} {n} for {c} {v}.",
    ),
    "first": (
        "Which {a} has the {s} {n}?",
        "Show the {a} with the {s} {n}.",
        "What is the {a} of the {t} with the {s} {n}?",
        "Find the {a} that has the {s} {n} of all {t}.",
    ),
    "distinct": (
        "What are the different {c} values?",
        "List each {c} once.",
        "Show every different {c} of the {t}.",
        "Which distinct {c} values are in {t}?",
    ),
    "count_distinct": (
        "How many different {c} values are there?",
        "What is the number of different {c} values in {t}?",
        "Count the distinct {c} values.",
        "How many distinct {c} values do the {t} have?",
    ),
}


def question(rng: random.Random, query: Query) -> str:
    """The query asked in English by one of its family's phrasings."""
    slots = {"t": query.table, "a": query.target, "c": query.target, "n": query.target}
    for part in query.filters:
        if part.operator == "=":
            slots |= {"c": part.column, "v": str(part.value)}
        else:
            comparison = rng.choice(COMPARISONS[part.operator])
            slots |= {"n": part.column, "op": comparison, "x": str(part.value)}
    function = query.function
    if query.order_by:
        function = "MAX" if query.direction == "DESC" else "MIN"
        slots["n"] = query.order_by
    slots["s"] = rng.choice(SUPERLATIVES.get(function, ("",)))
    return rng.choice(PHRASINGS[query.family]).format(**slots)
