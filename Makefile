# The habits of this project, one word each. Python 3.11+ and make are all that must be there first.

PYTHON ?= python3
WORKERS ?= 2
# of measuring in `make gpu`; a later call goes on where an earlier one ended
GPU_SECONDS ?= 14400
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env quickstart test check fix docs docs-check bench gpu soak tiny golden constraints

help: ## list these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

env: $(INSTALLED) ## make .venv with the exact versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("lorafit needs Python 3.11 or newer; name one: make env PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q lorafit # as an installation that is not editable does: commands start sooner
	@touch $@

quickstart: export HF_HUB_OFFLINE := 1
# A model this small gains little from a second thread, and loses tenfold by it on a busy machine.
quickstart: export OMP_NUM_THREADS := 1
quickstart: env ## the whole story on a CPU, offline: estimate, train, evaluate, merge, generate
	@printf '\n# 1. What will it need?\n'
	$(BIN)/lorafit estimate-vram recipes/quickstart.yaml
	@printf '\n# 2. Teach the built-in model to write SQL.\n'
	$(BIN)/lorafit train recipes/quickstart.yaml --fresh
	@printf '\n# 3. Is it better than the base? Run the SQL it writes for questions it has never seen.\n'
	$(BIN)/lorafit eval runs/quickstart --metric sql_execution --compare-base
	@printf '\n# 4. Fold the adapter into the base: a plain model that any tool loads.\n'
	$(BIN)/lorafit merge runs/quickstart --out runs/quickstart-merged --force
	@printf '\n# 5. The merged model must answer the same.\n'
	$(BIN)/lorafit eval runs/quickstart-merged --data builtin:sql --metric sql_execution
	@printf '\n# 6. Ask it something.\n'
	$(BIN)/lorafit generate runs/quickstart-merged --prompt $(QUESTION)

# The built-in model is small: it understands questions in the form of builtin:sql, about any table.
QUESTION := "Table ships: captain TEXT, harbour TEXT, tons INTEGER. What is the average tons of the ships whose harbour is Oslo?"

test: export HF_HUB_OFFLINE := 1
test: env ## the everyday tests
	$(BIN)/pytest -n $(WORKERS) -q

check: env ## what CI runs: format, lint, types, imports, spelling, docs, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/gen_reference.py --check
	$(MAKE) test

fix: env ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env ## write docs/reference from the code
	$(BIN)/python scripts/gen_reference.py

docs-check: env ## fail when docs/reference is stale
	$(BIN)/python scripts/gen_reference.py --check

bench: env ## start-up time as a share of `import torch`, and a training step beside transformers' Trainer
	$(BIN)/python -m scripts.bench.start --rounds 1
	$(BIN)/python -m scripts.bench.engine

gpu: export HF_HUB_OFFLINE := 1
gpu: env ## the tests that need CUDA, then memory and speed on this card; says why when there is none
	$(BIN)/pytest -m gpu -rs tests
	$(BIN)/python -m scripts.gpu --budget $(GPU_SECONDS)

soak: export HF_HUB_OFFLINE := 1
soak: env ## the long tests
	$(BIN)/pytest -m slow tests

tiny: env ## build builtin:tiny and builtin:sql again from their seed (an hour or two)
	$(BIN)/python -m scripts.tiny.build

golden: env ## record the golden files that tests compare with; say in the commit why they changed
	$(BIN)/python -m scripts.record_golden

constraints: env ## write constraints.txt from the environment
	$(BIN)/python scripts/renew_constraints.py
