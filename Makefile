# One command each. `make demo` and `make test` do all their set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SITE := "import sysconfig; print(sysconfig.get_paths()['purelib'])"

.PHONY: setup demo test test-without format lint types table docs

# torch and torchvision are pinned to a pair that works without a GPU. detectron2 is not on PyPI under its own name:
# sal-detectron2 is detectron2 at commit a59f0563, built for Python 3.10 but pure Python where this project uses it.
$(VENV)/.done: pyproject.toml setup.py requirements/dev.txt requirements/docs.txt requirements/detectron2.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip "setuptools<81" wheel
	$(RUN) -m pip install --quiet -r requirements/dev.txt
	$(RUN) -m pip install --quiet --no-deps --target "$$($(RUN) -c $(SITE))" --upgrade --python-version 3.10 --implementation cp \
		--only-binary=:all: --require-hashes -r requirements/detectron2.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

setup: $(VENV)/.done

demo: setup
	$(RUN) tools/demo.py

# Some tests wait for processes that they start: four workers keep two cores busy.
test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 4

# As if an extra were not installed: make test-without EXTRA=search
test-without: setup
	OMP_NUM_THREADS=1 NASNET_DET_WITHOUT=$(EXTRA) $(RUN) -m pytest -n 4

format: setup
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lint: setup
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

types: setup
	$(RUN) -m mypy

# The pages of docs/ as a site in site/; a dead link fails.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

# README's table of models, counted anew.
table: setup
	$(RUN) tools/model_table.py --write README.md
