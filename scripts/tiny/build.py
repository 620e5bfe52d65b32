"""One command that rebuilds the quickstart assets, or checks that the shipped ones are what they claim."""

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from scripts.tiny import cards, sqldata, tokenizer
from scripts.tiny.corpus import BOS, END, PAD
from scripts.tiny.pretrain import Settings, pretrain

ASSETS = Path(__file__).resolve().parents[2] / "lorafit" / "assets"
DATA_SEED = 7
HASHED = ("model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json")


def main() -> int:
    """Build or check, as asked; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare what is shipped")
    parser.add_argument("--data-only", action="store_true", help="write the SQL data set, keep the model")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder that gets tiny/ and sql/")
    parser.add_argument("--work", type=Path, help="folder for the running state; resumes from it")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="pretraining steps")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.check:
        return check(options.out)
    build_data(options.out / "sql")
    if not options.data_only:
        torch.set_num_threads(options.threads)
        work = options.work or Path(tempfile.mkdtemp(prefix="lorafit-tiny-"))
        build_model(options.out / "tiny", work, Settings(steps=options.steps))
    return 0


def build_data(folder: Path) -> None:
    """Write the SQL chat set and its card."""
    sqldata.write(DATA_SEED, folder)
    (folder / "README.md").write_text(cards.data_card(DATA_SEED), encoding="utf-8")


def build_model(folder: Path, work: Path, settings: Settings) -> None:
    """Train into the work folder, then write the finished checkpoint and its papers."""
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    trained = tokenizer.train(settings.seed, settings.vocabulary)
    tokenizer.save(trained, folder, settings.positions)
    model, loss = pretrain(settings, trained, work)
    save_model(model, trained, folder)
    record = manifest(folder, settings, loss, model.num_parameters())
    (folder / "BUILD.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(cards.model_card(record), encoding="utf-8")


def save_model(model: LlamaForCausalLM, trained: Tokenizer, folder: Path) -> None:
    """Write weights, config and greedy generation settings."""
    model.generation_config = GenerationConfig(
        bos_token_id=trained.token_to_id(BOS),
        eos_token_id=trained.token_to_id(END),
        pad_token_id=trained.token_to_id(PAD),
        do_sample=False,
    )
    model.save_pretrained(str(folder))


def manifest(folder: Path, settings: Settings, loss: float, parameters: int) -> dict[str, object]:
    """What was built, from what, and the hashes to know it by."""
    tokens = settings.steps * settings.batch_sequences * settings.sequence_tokens
    return {
        "command": "python -m scripts.tiny.build",
        "settings": asdict(settings),
        "parameters": parameters,
        "pretraining_tokens": tokens,
        "final_loss": round(loss, 4),
        "data_seed": DATA_SEED,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "sha256": {name: sha256(folder / name) for name in HASHED},
    }


def sha256(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(assets: Path) -> int:
    """Name every shipped file that differs from its record or from what its generator writes."""
    wrong = wrong_hashes(assets / "tiny") + stale_data(assets / "sql")
    for name in wrong:
        print(f"differs: {name}", file=sys.stderr)
    if not wrong:
        print("the shipped assets match their record and their generators")
    return 1 if wrong else 0


def wrong_hashes(folder: Path) -> list[str]:
    """The model files whose hash is not the recorded one."""
    record = json.loads((folder / "BUILD.json").read_text(encoding="utf-8"))
    expected: dict[str, str] = record["sha256"]
    return [f"tiny/{name}" for name, digest in expected.items() if sha256(folder / name) != digest]


def stale_data(folder: Path) -> list[str]:
    """The data files that differ from what the generator writes now."""
    with tempfile.TemporaryDirectory() as fresh:
        build_data(Path(fresh))
        names = sorted(path.name for path in Path(fresh).iterdir())
        return [f"sql/{name}" for name in names if (Path(fresh) / name).read_bytes() != _bytes(folder / name)]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    sys.exit(main())
