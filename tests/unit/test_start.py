"""What needs no model starts without the packages that take seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "numpy", "rich")
# Runs the command in its own process and prints which heavy packages it left imported, as the last line.
RUN = """
import gc, json, sys
from lorafit.__main__ import main
heavy, sys.argv = json.loads(sys.argv[1]), ["lorafit", *sys.argv[2:]]
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps({"code": code, "imported": [name for name in heavy if name in sys.modules],
    "collects": gc.isenabled()}))
"""
COMMANDS = [
    "--help",
    "train --help",
    "eval --help",
    "merge --help",
    "generate --help",
    "estimate-vram --help",
    "schema",
    "validate recipes/quickstart.yaml",
    "validate recipes/llama3-8b-qlora.yaml",
    "estimate-vram recipes/quickstart.yaml",
    "estimate-vram recipes/llama3-8b-qlora.yaml --gpu 24GB --json",
    "estimate-vram recipes/classification.yaml",
    "estimate-vram --model 70b --method qlora",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_imports_nothing_heavy(command: str) -> None:
    arguments = [sys.executable, "-c", RUN, json.dumps(HEAVY), *command.split()]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 0, "imported": [], "collects": True}, done.stderr
