"""Make `builtin:questions` of `builtin:sql`: each question with the operation that its SQL performs, as its class.

Run it from the root of the repository: `python -m scripts.label_questions`. The files are committed.
"""

import csv
import json
import re
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "lorafit" / "assets"
OPERATIONS = (
    (r"SELECT COUNT\(DISTINCT", "count_distinct"),
    (r"SELECT COUNT", "count"),
    (r"SELECT AVG", "average"),
    (r"SELECT SUM", "sum"),
    (r"SELECT MAX", "maximum"),
    (r"SELECT MIN", "minimum"),
    (r"SELECT DISTINCT", "list_distinct"),
    (r".* ORDER BY", "first"),
    (r"SELECT", "list"),
)


def operation(sql: str) -> str:
    """Name what a statement does."""
    return next(name for pattern, name in OPERATIONS if re.match(pattern, sql))


def label(split: str) -> None:
    """Write the questions of a split with their classes; a question that was there already is left out."""
    lines = (ASSETS / "sql" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    rows = {chat[0]["content"].rpartition("\n")[2]: operation(chat[-1]["content"]) for chat in chats}
    with (ASSETS / "questions" / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("text", "label"), *rows.items()])


if __name__ == "__main__":
    label("train")
    label("validation")
