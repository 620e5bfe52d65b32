"""Reading a recipe needs none of the packages that take seconds to import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "numpy", "rich")
READ = """
import sys
from pathlib import Path
from lorafit.recipe.load import load_recipe
from lorafit.recipe.resolved import canonical_json, recipe_from_resolved, recipe_hash, schema_json
loaded = load_recipe(Path(sys.argv[1]), ["adapter.rank=4"])
recipe_hash(recipe_from_resolved(canonical_json(loaded.recipe)))
schema_json()
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_nothing_heavy_is_imported() -> None:
    command = [sys.executable, "-c", READ, str(ROOT / "recipes" / "quickstart.yaml"), *HEAVY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"
