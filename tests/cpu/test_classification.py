"""A head that tells classes apart: its loss and gradients, its files, its resumption, and what is refused."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import byte_tokenizer, chat_rows, write_rows
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer, Replace
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lorafit.cli import main
from lorafit.data.batch import flat_batch
from lorafit.data.classes import ClassEncoder, end_documents, padding_id
from lorafit.data.prepare import PreparedData, prepare
from lorafit.data.tokens import Encoded
from lorafit.errors import DataError, RecipeError
from lorafit.evaluate.chat import converse
from lorafit.evaluate.run import evaluate
from lorafit.export.merge import merge
from lorafit.model.batch import to_device
from lorafit.model.load import load_base
from lorafit.model.loss import summed_loss
from lorafit.model.run import load_run, new_head
from lorafit.model.tokenizer import load_tokenizer
from lorafit.recipe.formats import Labelled, RowFault
from lorafit.recipe.load import LoadedRecipe, load_recipe
from lorafit.recipe.schema import Recipe
from lorafit.train.course import Course
from lorafit.train.run import adapt
from lorafit.train.start import look_ahead, start

SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[2].with_name("shared"))) / "models"
REAL = sorted(str(path.parent.relative_to(SHARED)) for path in SHARED.glob("**/tokenizer.json"))
COLOURS = ("red", "green", "blue")
CPU = torch.device("cpu")


def rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """Texts that name their class, of ragged lengths."""
    return [
        {"text": f"paint {n} {COLOURS[n % 3]}" + " please" * (n % 4), "label": COLOURS[n % 3]}
        for n in range(offset, offset + count)
    ]


def write(folder: Path, model: Path, *overrides: str, train: list[dict[str, Any]] | None = None) -> LoadedRecipe:
    recipe = {
        "version": 1,
        "model": {"path": str(model)},
        "adapter": {"kind": "lora", "rank": 4, "alpha": 8},
        "data": {
            "train": [{"path": str(write_rows(folder / "train.jsonl", train or rows(30)))}],
            "validation": {"path": str(write_rows(folder / "validation.jsonl", rows(9, 100)))},
            "max_length": 64,
        },
        "training": {"max_steps": 8, "global_batch_size": 4, "learning_rate": 0.02, "warmup": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return load_recipe(path, overrides)


def prepared(recipe: Recipe, model: Path) -> PreparedData:
    return prepare(recipe, load_tokenizer(model))


def classifier(recipe: Recipe, model: Path, labels: list[str]) -> PreTrainedModel:
    head = new_head(labels, load_tokenizer(model), recipe.seed)
    return adapt(recipe, load_base(recipe.model, recipe.quantization, CPU, model, head)).model


def padded(data: PreparedData, padding: int) -> dict[str, torch.Tensor]:
    """The training rows as transformers takes them: padded on the right, masked, with a label each."""
    found = [data.train.row(number)[0] for number in range(len(data.train))]
    width = max(map(len, found))
    ids = torch.tensor([[*row.tolist(), *[padding] * (width - len(row))] for row in found])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in found])
    assert data.train.classes is not None
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(data.train.classes.astype(np.int64))}


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    start(write(folder, tiny_model, "training.max_steps=40"), folder / "run", "new")
    return folder / "run"


def test_classes_held_out_of_the_training_rows_are_those_of_the_run(tiny_model: Path, tmp_path: Path) -> None:
    start(write(tmp_path, tiny_model, "data.validation={fraction: 0.3}"), tmp_path / "run", "new")
    assert evaluate(str(tmp_path / "run"), data=[], metrics=[], compare_base=False).examples == 9


@pytest.mark.parametrize("packing", [True, False])
def test_loss_and_gradients_are_those_of_plain_transformers(tiny_model: Path, tmp_path: Path, packing: bool) -> None:
    recipe = write(tmp_path, tiny_model, "adapter={kind: full}", f"data.packing={str(packing).lower()}").recipe
    data = prepared(recipe, tiny_model)
    ours = classifier(recipe, tiny_model, data.labels).train()
    batch = flat_batch(data.train, data.train_packs, np.arange(len(data.train_packs)))
    assert (len(data.train_packs) < 30) == packing
    assert batch.target_tokens == 30
    summed = summed_loss(ours, to_device(batch, CPU))
    torch.autograd.backward(summed / batch.target_tokens)

    theirs = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3, dtype=torch.float32)
    theirs.load_state_dict(ours.state_dict())
    loss = theirs(**padded(data, byte_tokenizer().pad_token_id)).loss
    loss.backward()
    assert math.isclose(float(summed.detach()) / 30, float(loss.detach()), abs_tol=1e-5)
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-5), name  # type: ignore[arg-type]


def test_no_document_sees_another(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, tiny_model).recipe
    data = prepared(recipe, tiny_model)
    model = classifier(recipe, tiny_model, data.labels)
    everything = np.arange(len(data.train_packs))
    together = summed_loss(model, to_device(flat_batch(data.train, data.train_packs, everything), CPU))
    apart = [
        summed_loss(model, to_device(flat_batch(data.train, data.train_packs, one), CPU)) for one in everything[:, None]
    ]
    assert torch.allclose(together, torch.stack(apart).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_adapter_is_loaded_by_plain_peft_and_merges_into_plain_transformers(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    start(write(tmp_path, tiny_model, f"adapter.kind={kind}"), tmp_path / "run", "new")
    adapter = tmp_path / "run" / "adapter"
    config = AutoConfig.from_pretrained(adapter)
    assert config.label2id == {"blue": 0, "green": 1, "red": 2}
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, config=config)
    theirs = PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    texts = tokenizer(["paint it red", "green please, and soon"], return_tensors="pt", padding=True)
    merge(tmp_path / "run", tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    ours = load_run(tmp_path / "run").model
    with torch.no_grad():
        logits = theirs(**texts).logits
        assert torch.allclose(ours(**texts).logits, logits, atol=0 if kind == "lora" else 1e-6)
        assert torch.allclose(merged(**texts).logits, logits, atol=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(**texts).logits, logits, atol=1e-2)
    assert merged.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert not any(name.startswith("lm_head") for name in load_file(tmp_path / "merged" / "model.safetensors"))


def test_full_fine_tuning_leaves_a_classifier(tiny_model: Path, tmp_path: Path) -> None:
    start(write(tmp_path, tiny_model, "adapter={kind: full}", "training.learning_rate=0.002"), tmp_path / "run", "new")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    result = evaluate(str(tmp_path / "run"))
    assert set(result.metrics) == {"loss", "accuracy", "f1", "matthews"}
    merge(tmp_path / "run", tmp_path / "merged")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("changes", [[], ["quantization.kind=nf4", "training.gradient_checkpointing=full"]])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    changes: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = write(tmp_path, tiny_model, *changes, "adapter.dropout=0.1", "training.save_every=3")
    start(loaded, tmp_path / "whole", "new")
    step = Course._step

    def killed(self: Course, reporter: Any) -> None:
        if self.position.step == 5:
            raise KeyboardInterrupt
        step(self, reporter)

    monkeypatch.setattr(Course, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        start(loaded, tmp_path / "cut", "new")
    monkeypatch.undo()
    start(loaded, tmp_path / "cut", "resume")
    whole, cut = (
        {path.name: path.read_bytes() for path in (tmp_path / place / "adapter").iterdir()}
        for place in ("whole", "cut")
    )
    assert whole == cut


def test_the_head_stays_out_of_quantisation(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, tiny_model, "quantization.kind=nf4").recipe
    model = load_base(
        recipe.model, recipe.quantization, CPU, tiny_model, new_head(list("abc"), byte_tokenizer(), 1)
    ).model
    again = load_base(
        recipe.model, recipe.quantization, CPU, tiny_model, new_head(list("abc"), byte_tokenizer(), 1)
    ).model
    assert type(model.score) is torch.nn.Linear
    assert model.score.weight.dtype == torch.float32
    assert torch.equal(model.score.weight, again.score.weight)


def test_it_learns_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(str(run), compare_base=True)
    assert result.metrics["accuracy"] > 0.9 > 0.7 > (result.base or {})["accuracy"]
    assert result.majority == pytest.approx(1 / 3)
    assert (result.examples, result.target_tokens) == (9, 9)
    assert set(evaluate(str(run), metrics=["f1"]).metrics) == {"loss", "f1"}
    answer = converse(str(run), "paint 104 blue", max_new_tokens=4, speak=True)
    assert answer["answer"] == "blue"
    assert "blue" in capsys.readouterr().out


def test_a_merged_classifier_is_evaluated_by_itself(run: Path, tmp_path: Path) -> None:
    merge(run, tmp_path / "merged")
    path = str(write_rows(tmp_path / "new.jsonl", rows(9, 100)))
    assert evaluate(str(tmp_path / "merged"), data=[path]).metrics == pytest.approx(
        evaluate(str(run)).metrics, abs=1e-5
    )


def test_classes_are_scored_in_the_order_of_the_model(run: Path, tmp_path: Path) -> None:
    merge(run, tmp_path / "sorted")
    shuffled, order = tmp_path / "shuffled", [1, 2, 0]
    shutil.copytree(tmp_path / "sorted", shuffled)
    config, tensors = json.loads((shuffled / "config.json").read_text()), load_file(shuffled / "model.safetensors")
    names = [config["id2label"][str(number)] for number in order]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (shuffled / "config.json").write_text(json.dumps(config))
    tensors["score.weight"] = tensors["score.weight"][order].contiguous()
    save_file(tensors, shuffled / "model.safetensors", metadata={"format": "pt"})
    paths = [str(write_rows(tmp_path / f"{part}.jsonl", rows(5, 100 + 9 * part))) for part in range(2)]
    expected = evaluate(str(tmp_path / "sorted"), data=paths)
    assert expected.metrics["accuracy"] > 0.7
    assert evaluate(str(shuffled), data=paths).metrics == pytest.approx(expected.metrics, abs=1e-6)


@pytest.mark.parametrize("names", [["left", "right"], ["other", "names", "here"]])
def test_a_classifier_is_trained_anew_on_a_classifier(names: list[str], run: Path, tmp_path: Path) -> None:
    merge(run, tmp_path / "base")
    train = [{"text": f"go {n} {names[n % len(names)]}", "label": names[n % len(names)]} for n in range(12)]
    changes = ("data.validation=null", "training.max_steps=4")
    start(write(tmp_path, tmp_path / "base", *changes, train=train), tmp_path / "run", "new")
    result = merge(tmp_path / "run", tmp_path / "merged")
    assert result.tensors_merged == result.tensors_expected
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    text = AutoTokenizer.from_pretrained(tmp_path / "merged")("go left", return_tensors="pt")
    assert sorted(merged.config.id2label.values()) == sorted(names)
    with torch.no_grad():
        expected = load_run(tmp_path / "run").model(input_ids=text["input_ids"]).logits
        assert torch.allclose(merged(input_ids=text["input_ids"]).logits, expected, atol=1e-5)


def test_a_classifier_made_elsewhere_reads_texts_as_its_tokenizer_ends_them(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    merge(run, tmp_path / "theirs")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "theirs")  # it ends no text
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs")
    texts, gold = ["paint 101 red", "paint 7 blue please"], torch.tensor([2, 0])
    with torch.no_grad():
        ids = [byte_tokenizer()(text, return_tensors="pt")["input_ids"] for text in texts]
        logits = torch.cat([model(input_ids=row).logits for row in ids])
    found = converse(str(tmp_path / "theirs"), texts[0], max_new_tokens=4, speak=False)
    assert found["classes"][0]["probability"] == pytest.approx(float(logits[0].softmax(0).max()), abs=1e-5)  # type: ignore[index]
    path = write_rows(
        tmp_path / "two.jsonl", [{"text": t, "label": c} for t, c in zip(texts, ("red", "blue"), strict=True)]
    )
    with pytest.raises(DataError, match="no token"):
        converse(str(tmp_path / "theirs"), "", max_new_tokens=4, speak=False)
    loss = evaluate(str(tmp_path / "theirs"), data=[str(path)]).metrics["loss"]
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, gold)), abs=1e-5)


def words(normalizer: Any = None) -> PreTrainedTokenizerFast:
    """A tokenizer of a few whole words, in small letters; what it does not know is <unk>."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", "paint", "it", "red", "!", "naive"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, "<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, BertPreTokenizer(), WordPiece()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def test_a_text_that_the_tokenizer_cannot_write_is_no_row() -> None:
    lossy = words(BertNormalizer(lowercase=True))
    given = [Labelled(text, None, "x") for text in ("Paint it RED!", "naïve\tred </s>", "paint it mauve", "\u200b")]
    good, accented, unknown, nothing = ClassEncoder(lossy).encode(given)
    assert isinstance(good, Encoded)
    assert good.tokens.tolist() == [2, 3, 4, 5, 1]
    assert isinstance(accented, Encoded)
    for fault in (unknown, nothing):
        assert isinstance(fault, RowFault)
        assert fault.code == "E3-ROW-TOKENS"
    assert isinstance(ClassEncoder(words()).encode(given)[0], RowFault)  # large letters are unknown


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_rows_of_no_token_are_faults(on_bad_row: str, tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    tokenizer.save_pretrained(model)
    loaded = write(
        tmp_path, model, f"data.on_bad_row={on_bad_row}", train=[*rows(5), {"text": "\u200b", "label": "red"}]
    )
    if on_bad_row == "skip":
        assert len(prepared(loaded.recipe, model).train) == 5
        return
    with pytest.raises(DataError) as caught:
        prepared(loaded.recipe, model)
    (fault,) = caught.value.faults
    assert (fault.code, fault.where) == ("E3-ROW-TOKENS", f"{tmp_path / 'train.jsonl'}:6")


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_write_any_text_or_say_so(name: str) -> None:
    """The one with few characters, and no bytes for others, says so."""
    encoder = ClassEncoder(tokenizer := AutoTokenizer.from_pretrained(SHARED / name))
    texts = [f" It's  do n't,\n a {tokenizer.eos_token} b ", "x", "\r\tÜnïcode: ½ ﬁ 日本語 🙂 \n"]
    *plain, odd = encoder.encode([Labelled(text, None, "x") for text in texts])
    assert all(isinstance(row, Encoded) for row in plain)
    assert isinstance(odd, RowFault if "656k" in name else Encoded)


def test_what_a_classifier_cannot_do_is_refused(run: Path, tmp_path: Path) -> None:
    for metrics in (["perplexity"], ["exact_match"]):
        with pytest.raises(RecipeError, match="of a classifier"):
            evaluate(str(run), metrics=metrics)
    with pytest.raises(RecipeError, match="no conversation"):
        converse(str(run), None, max_new_tokens=4, speak=False)
    with pytest.raises(DataError, match="the rows have no class"):
        evaluate(str(run), data=[str(write_rows(tmp_path / "chats.jsonl", chat_rows(3)))])
    with pytest.raises(DataError, match="'pink', which is not trained"):
        evaluate(str(run), data=[str(write_rows(tmp_path / "pink.jsonl", [{"text": "a", "label": "pink"}]))])


@pytest.mark.parametrize(
    ("train", "validation", "code"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], None, "E3-CLASSES"),
        (None, [{"text": "a", "label": "pink"}], "E3-CLASS-UNKNOWN"),
        (None, chat_rows(2), "E3-CLASSES"),
        (chat_rows(4), [{"text": "a", "label": "x"}], "E3-CLASSES"),
    ],
)
def test_rows_that_train_no_head_are_refused(
    train: list[dict[str, Any]] | None,
    validation: list[dict[str, Any]] | None,
    code: str,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    loaded = write(tmp_path, tiny_model, train=train)
    if validation is None:
        write_rows(tmp_path / "validation.jsonl", [{"text": "other", "label": "x"}])
    else:
        write_rows(tmp_path / "validation.jsonl", validation)
    with pytest.raises(DataError) as caught:
        look_ahead(loaded, 1)
    assert {fault.code for fault in caught.value.faults} == {code}


def test_numbers_are_classes_in_their_order(tiny_model: Path, tmp_path: Path) -> None:
    numbered = [{"text": f"a {n}", "label": n % 11} for n in range(22)]
    loaded = write(tmp_path, tiny_model, "data.validation=null", train=numbered)
    data = prepared(loaded.recipe, tiny_model)
    assert data.labels == [str(n) for n in range(11)]
    assert data.train.classes is not None
    assert data.train.classes.tolist() == [n % 11 for n in range(22)]


def test_a_cut_row_keeps_its_class_and_its_end(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write(tmp_path, tiny_model, "data.max_length=12", "data.on_overlong=truncate", "data.validation=null")
    data = prepared(loaded.recipe, tiny_model)
    assert len(data.train) == 30
    assert set(data.train.lengths.tolist()) == {12}
    end = byte_tokenizer().eos_token_id
    assert all(data.train.row(number)[0][-1] == end for number in range(30))


def test_the_saved_tokenizer_ends_its_texts(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    before = tokenizer("ab")["input_ids"]
    (encoded,) = ClassEncoder(tokenizer).encode([Labelled("ab", "c", "x")])
    assert tokenizer("ab")["input_ids"] == before  # the one given stays as it is
    end_documents(tokenizer)
    end_documents(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("ab\nc")["input_ids"] == encoded.tokens.tolist() == [*tokenizer("ab\nc")["input_ids"]]  # type: ignore[union-attr]
    assert again("ab")["input_ids"] == [*before, tokenizer.eos_token_id]


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_end_texts_alike_after_saving(name: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / name)
    plain, before = tokenizer("x, y!", add_special_tokens=False)["input_ids"], tokenizer("x, y!")["input_ids"]
    size = len(tokenizer)
    end_documents(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ended = [] if padding_id(tokenizer) == tokenizer.eos_token_id else [tokenizer.eos_token_id]  # GPT-2 has no other
    assert tokenizer("x, y!")["input_ids"] == again("x, y!")["input_ids"] == [*before, *ended]
    assert again("x, y!", add_special_tokens=False)["input_ids"] == plain
    assert (len(again), again.padding_side) == (size, "right")
    assert again.pad_token_id == padding_id(tokenizer)


def test_padding_is_never_the_end_of_a_text() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert padding_id(tokenizer) not in (None, tokenizer.eos_token_id)


def test_a_base_that_stores_its_embedding_as_its_head_alone(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    tensors = load_file(base / "model.safetensors")
    embedding = tensors.pop("model.embed_tokens.weight")
    save_file(tensors | {"lm_head.weight": embedding}, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    recipe = write(tmp_path, base).recipe
    model = load_base(recipe.model, recipe.quantization, CPU, base, new_head(["a", "b"], byte_tokenizer(), 1)).model
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    for adapter in ("{kind: full}", "{kind: lora, rank: 4}"):
        start(write(tmp_path, base, "training.max_steps=2", f"adapter={adapter}"), tmp_path / "run", "fresh")
        merge(tmp_path / "run", tmp_path / "merged", force=True)
        assert "model.embed_tokens.weight" in load_file(tmp_path / "merged" / "model.safetensors")
        assert evaluate(str(tmp_path / "run")).examples == 9


def test_in_words_the_label_is_the_answer(tiny_model: Path, tmp_path: Path) -> None:
    loaded = write(tmp_path, tiny_model, "data.classification=words", "training.max_steps=2")
    data = prepared(loaded.recipe, tiny_model)
    assert data.labels == []
    tokens, trained = data.train.row(0)
    assert byte_tokenizer().decode(tokens) == "<s><|user|>paint 0 red<|end|><|assistant|>red<|end|>"
    assert byte_tokenizer().decode(tokens[trained]) == "red<|end|>"
    start(loaded, tmp_path / "run", "new")
    assert "exact_match" in evaluate(str(tmp_path / "run"), metrics=["exact_match"], max_new_tokens=4).metrics


@pytest.mark.parametrize("adapter", ["{kind: lora, rank: 4}", "{kind: dora, rank: 4}", "{kind: full}"])
def test_the_trained_numbers_are_foreseen_exactly(
    adapter: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = write(tmp_path, tiny_model, f"adapter={adapter}", "data.train.format=classification")
    model = classifier(loaded.recipe, tiny_model, list(COLOURS))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    source = f"data.train={{path: {tmp_path / 'train.jsonl'}, format: classification}}"
    words = ["estimate-vram", str(tmp_path / "recipe.yaml"), "--set", f"adapter={adapter}", "--set", source, "--json"]
    monkeypatch.setattr("sys.argv", ["lorafit", *words])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["trainable_parameters"] == trained
