# make demo              the whole way on synthesized speech, in minutes: no GPU, no network but the package index
# make demo AUDIO=DIR    the same on your own folder of audio, or a corpus in a layout that is recognized
# make spirit-demo       a small model of speech and text, in minutes: it reads, writes, hears and speaks
# make test              all tests but those of `make faults`
# make faults            the rest, which takes minutes: processes and machines killed, stores that go away, other servers
# make parity            compare with fairseq's own HuBERT, which takes minutes to install into .venv-parity
# make check             lint, format, types
# make docs              the documentation as a site, in build/site
# make setup             only the environment, in .venv

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PARITY := .venv-parity
AUDIO  ?=
RUN     = $(if $(strip $(AUDIO)),runs/demo-$$(basename "$(AUDIO)"),runs/demo)
JOBS   ?= 2
# A test process that dies ends the run: pytest-xdist 3.8 may wait for ever for the one that takes its place
# (pytest-dev/pytest-xdist#1323). One thread in each test process: more of them would wait for each other.
PARALLEL = -n $(JOBS) --dist loadgroup --max-worker-restart 0

.PHONY: demo spirit-demo setup setup-dev test faults parity check docs format clean

demo: $(VENV)/.runtime
ifeq ($(strip $(AUDIO)),)
	$(BIN)/twist make-speech demo runs/demo-speech
	$(BIN)/twist run --config recipes/demo.yaml --audio runs/demo-speech
else
	$(BIN)/twist run --config recipes/demo.yaml --audio "$(AUDIO)" --run "$(RUN)"
endif
	$(BIN)/twist make-benchmark mini runs/demo-benchmark
	$(BIN)/twist evaluate all --run "$(RUN)" > "$(RUN)/evaluation.txt"
	$(BIN)/twist evaluate table "$(RUN)"
	$(BIN)/twist resynthesize --run "$(RUN)" --held-out validation --output-file "$(RUN)/speech/resynthesis.wav"
	$(BIN)/twist generate --run "$(RUN)" --held-out validation --output-file "$(RUN)/speech/continuation.wav"
	@echo
	@echo "Listen to $(RUN)/speech: resynthesis.original.wav is the recording, resynthesis.wav the same from its units"
	@echo "alone, continuation.wav its first 3 seconds and what the model says next. A model of this size, trained on"
	@echo "minutes of speech, has the rhythm of speech and speaks no words; the voice is small, too."

SPIRIT := runs/spirit-demo
CONTINUE = $(BIN)/twist generate --run $(SPIRIT) --max-new-tokens 80 --output-file $(SPIRIT)/speech
SAID = [SPEECH] runs/spirit-demo-speech/00003.flac
WRITTEN = [TEXT] Dorothy painted the yellow

spirit-demo: $(VENV)/.runtime
	$(BIN)/twist make-speech primer runs/spirit-demo-speech
	$(BIN)/twist make-text primer runs/spirit-demo-text
	$(BIN)/twist run --config recipes/spirit_demo.yaml --audio runs/spirit-demo-speech
	$(BIN)/twist evaluate matching --run $(SPIRIT)
	$(CONTINUE)/text-to-text.wav --prompt "$(WRITTEN)" --output-modality text
	$(CONTINUE)/text-to-speech.wav --prompt "$(WRITTEN)" --output-modality speech
	$(CONTINUE)/speech-to-text.wav --prompt "$(SAID)" --output-modality text
	$(CONTINUE)/speech-to-speech.wav --prompt "$(SAID)" --output-modality speech
	$(CONTINUE)/any.wav --prompt "$(WRITTEN)" --output-modality any
	@echo
	@echo "Listen to $(SPIRIT)/speech: what the model goes on with, with texts and times in the .json beside each wav. A"
	@echo "model of this size, trained for minutes, writes sentences of its few words, and its voice is small."

setup: $(VENV)/.runtime

setup-dev: $(VENV)/.dev

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "not faults"

faults: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m faults

parity: $(VENV)/.dev $(PARITY)/.ready
	rm -rf build/parity
	$(PARITY)/bin/python tests/parity/make_references.py build/parity
	TWIST_PARITY_REFERENCES=build/parity $(BIN)/python -m pytest tests/parity

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PARITY) build/parity build/site runs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(PARITY)/.ready: tests/parity/requirements.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@
