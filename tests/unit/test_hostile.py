"""Odd inputs to the commands that load no weights: each is answered with its exit code, and with no traceback."""

import json
import os
from pathlib import Path

import pytest
from typer.exceptions import TyperException
from typer.testing import CliRunner

from lorafit import cli
from lorafit.errors import LorafitError, RecipeError

GOOD = "version: 1\nmodel: {path: builtin:tiny}\ndata: {train: builtin:sql}\n"
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
FILES: dict[str, str | bytes] = {
    "binary.yaml": bytes(range(256)),
    "empty.yaml": "",
    "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "twice.yaml": "version: 1\n" + GOOD,
    "nan.yaml": GOOD + "training: {learning_rate: .nan}\n",
    "huge.yaml": GOOD + "seed: 99999999999999999999999\n",
    "negative.yaml": GOOD + "training: {epochs: -1}\n",
    "ünï cödé.yaml": GOOD,
    "packed.yaml": GOOD.replace("builtin:tiny", "packed"),
    "rows.yaml": GOOD.replace("builtin:sql", "rows.jsonl"),
    "broken/config.json": "{",
    "bare/config.json": '{"model_type": "llama"}',
    "bytes/config.json": b"\xff\xfe\x00",
    "list/config.json": "[]",
    "packed/config.json": json.dumps(LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    "deep/config.json": '{"a":' * 100_000,
    "heads/config.json": json.dumps(LLAMA | {"num_attention_heads": 5}),
    "shared/config.json": json.dumps(LLAMA | {"num_key_value_heads": 3}),
    "rows.jsonl": b'{"text": \n\xff\n',
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "endless"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    (tmp_path / "endless" / "config.json").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exit_code(words: list[str]) -> int:
    """What the process would end with; anything but the errors that commands know is raised."""
    result = CliRunner().invoke(cli.app, words, standalone_mode=False)
    match result.exception:
        case None:
            return result.exit_code
        case LorafitError() as error:
            assert all(fault["fix"] for fault in error.as_json()["error"]["faults"])  # type: ignore[index]
            return error.exit_code
        case TyperException():
            return RecipeError.exit_code
        case other:
            raise other


SPLIT = ["estimate-vram", "--model", "8b", "--gpus", "2", "--set", "training.sharding=full"]
RECIPES = ["none.yaml", "folder", "binary.yaml", "empty.yaml", "bomb.yaml", "twice.yaml", "nan.yaml", "huge.yaml"]
RECIPES += ["negative.yaml", "loop", "", os.devnull, "x" * 5000, "a\0b", "a\udcff.yaml"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: repr(recipe[:20]))
@pytest.mark.parametrize("command", ["validate", "estimate-vram", "doctor"])
@pytest.mark.usefixtures("here")
def test_a_recipe_that_is_none(command: str, recipe: str) -> None:
    assert exit_code([command, recipe]) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["validate", "ünï cödé.yaml"], 0),
        (["validate", "rows.yaml"], 3),
        (["validate", "packed.yaml"], 4),
        (["estimate-vram", "packed.yaml"], 4),
        *((["estimate-vram", "--model", name], 4) for name in ("broken", "bare", "bytes", "list", "folder", "./none")),
        *((["estimate-vram", "--model", name], 4) for name in ("deep", "heads", "shared", "pipe", "endless")),
        *((["estimate-vram", "--model", name], 2) for name in ("x" * 5000, "\udcff", "./\udcff")),
        *((["estimate-vram", "--model", name], 4) for name in ("\1\2", "x" * 3000, "a\0b", "/" * 300, "..", "0b")),
        (["estimate-vram"], 2),
        (["estimate-vram", "--model", ""], 2),
        *((["estimate-vram", "--model", "8b", "--gpu", text], 2) for text in ("", "1TB", "nan", "-24GB", "9" * 400)),
        *((["estimate-vram", "--model", "8b", "--tokens", text], 2) for text in ("", "0", "-1", "1e400", "inf")),
        *((["estimate-vram", "--model", "8b", "--gpus", text], 2) for text in ("0", "-1", "100000", "two")),
        *((["estimate-vram", "--model", "8b", "--rank", text], 2) for text in ("0", "nan", "9" * 30)),
        *((["estimate-vram", "--model", "8b", "--engine", text], 2) for text in ("", "transformers@99", "torch")),
        (["estimate-vram", "--model", "8b", "--micro-batch-size", "9" * 20], 2),
        (["estimate-vram", "--model", "8b", "--sweep", "max_length=1.." + "9" * 9], 2),
        (["estimate-vram", "--model", "8b", "--price-per-hour", "inf", "--gpu", "h100", "--tokens", "1B"], 2),
        *((["estimate-vram", "--model", "8b", "--sweep", text], 2) for text in ("rank=1..5000", "max_length=1..100")),
        (["estimate-vram", "--model", "8b", "--set", "="], 2),
        ([*SPLIT, "--method", "dora"], 2),
        ([*SPLIT, "--method", "full"], 2),
        ([*SPLIT, "--method", "full", "--engine", "transformers"], 0),
        (["train", "ünï cödé.yaml", "--resume", "--fresh"], 2),
        (["train", "ünï cödé.yaml", "--gpus", "65"], 2),
        (["merge", "folder"], 2),
        (["nonsense"], 2),
        (["--nonsense"], 2),
    ],
    ids=str,
)
@pytest.mark.usefixtures("here")
def test_odd_words(words: list[str], code: int) -> None:
    assert exit_code(words) == code
