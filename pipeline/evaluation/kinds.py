"""Perplexity of each kind of sequence that a model of text and speech was trained on, and of text beside its text LM.

The targets are those of validation in training: all that is said but the first token of a sequence, without [TEXT] and
[SPEECH]. Where text becomes worse than under the text LM that the model began as, the model forgets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.device import pick_device
from model.lm.mixture.config import TEXT
from model.lm.mixture.data import sources_of_split
from model.lm.mixture.perplexity import sample_nats
from model.lm.speech_lm import load_text_lm
from model.training import checkpoint
from model.weights_file import fingerprint_of_folder
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import result_of
from pipeline.files import storage
from pipeline.shards import open_dataset
from pipeline.speaking.speech_lm import load_lm
from pipeline.speaking.voice import DTYPES
from pipeline.stage import digest
from pipeline.text_shards import open_text

if TYPE_CHECKING:
    from model.device import Device
    from model.lm.mixture.sources import Source
    from model.lm.train_config import TrainConfig
    from pipeline.evaluation.results import Result
    from pipeline.shards import Dataset
    from pipeline.speaking.voice import DType

RULE = "exp of the mean nats per token of each kind, mean of the kinds; neither first tokens nor [TEXT] and [SPEECH]"
TEXT_LM = "text, by the text LM that it began as"
BATCH_SIZE = 16


def perplexity_of_kinds(
    checkpoint_folder: str,
    shards: str,
    text: str,
    train: TrainConfig,
    split: str,
    *,
    level: float = 0.95,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "float32",
) -> Result:
    """Perplexity of each kind of a training's mixture on one split.

    Args:
        checkpoint_folder: The model's folder, local or s3://.
        shards: Folder of the shards of units.
        text: Folder of the shards of text; it may be missing where the mixture has no text.
        train: The training's settings: its mixture, spans and longest sequence, and the text LM that it began with.
        split: One of the shards' splits.
        level: Level of the confidence intervals: bootstrap over speakers (recordings, documents).
        seed: Seed of the bootstrap.
        device: Where the model runs.
        dtype: What it computes in.

    Raises:
        TwistError: the model is one of units alone, or the shards are missing, damaged or of other units or tokens.
    """
    assert train.mixture is not None, "kinds are those of a mixture"
    dataset = open_dataset(shards)
    texts = open_text(text) if storage.exists(storage.join(text, "dataset.json")) else None
    lm = load_lm(checkpoint_folder, device, dtype)
    if not lm.vocabulary.text_size:
        raise TwistError(f"{checkpoint_folder} is a model of units alone: it knows no kinds of sequences")
    vocabulary = lm.vocabulary.for_dataset(dataset)
    sources = sources_of_split(train, dataset, texts, vocabulary, split)
    speakers = _speakers(dataset, split)
    tables = []
    for kind, source in sources.items():
        nats, num_targets = sample_nats(lm.model, vocabulary, source, batch_size=BATCH_SIZE)
        tables.append(_items(kind, source, nats, num_targets, speakers))
    text_lm = None
    if TEXT in sources and train.init is not None:
        text_lm = fingerprint_of_folder(checkpoint.fetch(train.init))
        model = load_text_lm(train.init).to(device=pick_device(device), dtype=DTYPES[dtype])
        nats, num_targets = sample_nats(model, vocabulary, sources[TEXT], batch_size=BATCH_SIZE, is_text_lm=True)
        tables.append(_items(TEXT_LM, sources[TEXT], nats, num_targets, speakers))
    items = pa.concat_tables(tables)
    kinds = items["kind"].to_pylist()
    measures = [Measure("mean of kinds", "nats", "num_targets", where="is_model", mean_over="kind", exponential=True)]
    for kind in dict.fromkeys(kinds):
        items = items.append_column(f"kind {kind}", pa.array([one == kind for one in kinds]))
        measures.append(Measure(kind, "nats", "num_targets", where=f"kind {kind}", exponential=True))
    if not np.isfinite(items["nats"].to_numpy()).all():
        raise TwistError(
            f"{checkpoint_folder} gives samples of {shards} likelihoods that are not finite; take another checkpoint"
        )
    return result_of(
        "perplexity-kinds" if split == "validation" else f"perplexity-kinds-{split}",
        checkpoint_folder,
        measures,
        items,
        rule=RULE,
        settings={
            "split": split,
            "kinds": list(sources),
            "max_tokens": train.max_units,
            "spans": {kind: source.identity().get("spans") for kind, source in sources.items()},
            "dtype": dtype,
        },
        fingerprints={
            "data": digest(dataset.fingerprint, texts.fingerprint if texts is not None else ""),
            "codebook": dataset.info["codebook"]["fingerprint"],
            "model": fingerprint_of_folder(checkpoint.fetch(lm.path)),
            "text_lm": text_lm,
        },
        level=level,
        seed=seed,
    )


def _speakers(dataset: Dataset, split: str) -> dict[str, str]:
    """The speaker of each sample in a split, by its key; where that is not known, its recording."""
    found = {}
    for table in dataset.rows(["key", "split", "corpus", "speaker", "segment_id"]):
        rows = table.filter(pc.equal(table["split"], split))
        columns = (rows[name].to_pylist() for name in ("key", "corpus", "speaker", "segment_id"))
        for key, corpus, speaker, segment_id in zip(*columns, strict=True):
            recording = segment_id.rpartition("#")[0]
            found[key] = f"recording {recording}" if speaker is None else f"{corpus} speaker {speaker}"
    return found


def _items(
    kind: str,
    source: Source,
    nats: np.ndarray[tuple[int], np.dtype[np.float64]],
    num_targets: np.ndarray[tuple[int], np.dtype[np.int64]],
    speakers: dict[str, str],
) -> pa.Table:
    """A row a sample; of one that is read in pieces, a row a piece."""
    keys = [source.key(sample) for sample in range(len(nats))]
    return pa.table(
        {
            "item_id": [f"{kind}/{number}" for number in range(len(keys))],
            GROUP: [speakers.get(key, f"document {key}") for key in keys],
            "kind": [kind] * len(keys),
            "is_model": [kind != TEXT_LM] * len(keys),
            "nats": nats,
            "num_targets": num_targets,
        }
    )
