"""What tells the sentiment of a text or of speech: any classifier of transformers, by its folder.

    <folder>/sentiments/<key>/part-*.parquet    a row a text, or a piece of audio (SCHEMA)

Things are judged one by one, so that nothing depends on padding, in float32, by actors on Ray. The key is a hash of
what is judged and of the classifier.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.device import pick_device
from model.foreign_config import architectures_of
from model.lm.text_tokenizer import has_tokenizer
from model.weights_file import refuse_not_finite
from pipeline.audio.read import AudioError
from pipeline.errors import TwistError, brief
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.sentiment.predictions import SENTIMENT_OF, SENTIMENTS
from pipeline.evaluation.speech.kept_parts import kept_parts
from pipeline.evaluation.speech.stored_model import StoredModel, loading
from pipeline.files import foreign_json, storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.stage import digest
from pipeline.work.retry import parts_to_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from model.device import Device
    from model.lm.modality import Modality
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig

    Thing = str | NDArray[np.float32] | AudioError

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)
# Things that an actor judges, and whose labels are kept, together.
ITEMS_AT_ONCE = 32
# Samples; what is shorter gets silence behind it, since an encoder needs some to give a frame.
SHORTEST = SAMPLE_RATE_HZ // 10
ARCHITECTURES: dict[Modality, tuple[str, ...]] = {
    "speech": ("ForSequenceClassification", "ForAudioClassification"),
    "text": ("ForSequenceClassification",),
}
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Classifier(StoredModel):
    """A classifier of texts or of speech, loaded when it is first to judge something.

    Attributes:
        modality: What it judges.
        sentiments: The sentiment that each of its labels means, by the label in lower case.
    """

    modality: Modality
    sentiments: tuple[tuple[str, str], ...]

    def label(self, thing: str | NDArray[np.float32]) -> str:
        """The likeliest label of a text, or of wav [S] at 16 kHz, in lower case.

        Raises:
            TwistError: the model cannot be loaded.
        """
        return self._judge(thing).lower()

    def sentiment(self, label: str) -> str:
        """The sentiment that a label means."""
        return dict(self.sentiments)[label]

    @functools.cached_property
    def _judge(self) -> Callable[[Any], str]:
        return _load_text(self) if self.modality == "text" else _load_speech(self)


@dataclass(frozen=True)
class Judged:
    """The label of each thing, in lower case, and the things that cannot be had."""

    labels: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def find_classifier(
    source: str, modality: Modality, meanings: Mapping[str, str] | None = None, device: Device = "auto"
) -> Classifier:
    """The classifier in a folder, local or s3://; it is not loaded yet.

    Args:
        source: The folder.
        modality: What it is to judge.
        meanings: The sentiment of labels that are none themselves, and not among SENTIMENT_OF.
        device: Where it runs.

    Raises:
        TwistError: there is no such classifier, or nothing says which sentiment one of its labels means.
    """
    config = storage.join(source, "config.json")
    try:
        facts = foreign_json.parse(storage.read_bytes(config))
        architectures = architectures_of(facts)
        # transformers writes no labels where they are its own: two, LABEL_0 and LABEL_1.
        labels = list((facts.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}).values())
    except FileNotFoundError:
        raise TwistError(
            f"{source} is no classifier of {modality}: give a folder with a model of transformers (config.json)"
        ) from None
    except (ValueError, AttributeError) as error:
        raise TwistError(f"{config} is damaged: {error}") from error
    hears = any(storage.exists(storage.join(source, name)) for name in EXTRACTORS)
    if not any(name.endswith(ARCHITECTURES[modality]) for name in architectures) or hears != (modality == "speech"):
        raise TwistError(
            f"{source} is no classifier of {modality}: it must be transformers' {' or '.join(ARCHITECTURES[modality])}"
            f"{f', with {EXTRACTORS[0]}' if modality == 'speech' else ', with a tokenizer'}; it has "
            f"{', '.join(architectures) or 'no architecture'}"
        )
    known = {**SENTIMENT_OF, **{label.lower(): told for label, told in (meanings or {}).items()}}
    sentiments = {}
    for label in map(str, labels):
        if label.lower() not in known:
            raise TwistError(
                f"{source} has the label {brief(label)}, of which nothing says whether it is {', '.join(SENTIMENTS)}: "
                f'give --evaluation.stsp.labels \'{{"{label}": "neutral", ...}}\''
            )
        sentiments[label.lower()] = known[label.lower()]
    return Classifier(storage.absolute(source), device, modality, tuple(sorted(sentiments.items())))


def judge(
    folder: str,
    item_ids: Sequence[str],
    fingerprint: str,
    read: Callable[[Sequence[str]], Iterable[Thing]],
    classifier: Classifier,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> Judged:
    """The label of each item: those in `folder` if they were told before, else told now.

    Args:
        folder: Where labels are kept, e.g. RUN/evaluation.
        item_ids: The items; unique.
        fingerprint: A hash of all their texts or audio, or of what it is made from.
        read: Gives some items: a text, wav [S] at 16 kHz, or what keeps it from being had.
        classifier: What judges, in actors on Ray.
        cluster: How much of the cluster to use.
        report: Called after every ITEMS_AT_ONCE items.

    Raises:
        TwistError: the classifier cannot be loaded.
        RunError: actors die, or a disk or store fails.
    """
    kept = storage.join(folder, "sentiments", digest(classifier.fingerprint, fingerprint, *item_ids)[:16])
    for uri in parts_to_retry(kept):
        storage.delete(uri)

    def take(some: slice) -> list[tuple[str, Thing]]:
        return list(zip(item_ids[some], read(item_ids[some]), strict=True))

    parts = kept_parts(
        kept, len(item_ids), ITEMS_AT_ONCE, take, functools.partial(_labels, classifier), cluster, report, "sentiments"
    )
    rows = [row for part in parts for row in part.to_pylist()]
    return Judged(
        {row["item_id"]: row["label"] for row in rows if row["label"] is not None},
        tuple(LeftOut(row["item_id"], row["drop_reason"], row["drop_detail"]) for row in rows if row["label"] is None),
    )


def _labels(classifier: Classifier, items: Sequence[tuple[str, Thing]]) -> pa.Table:
    rows = []
    for item_id, thing in items:
        if isinstance(thing, AudioError):
            rows.append({"item_id": item_id, "drop_reason": thing.reason, "drop_detail": thing.detail})
        else:
            rows.append({"item_id": item_id, "label": classifier.label(thing)})
    return pa.Table.from_pylist(rows, SCHEMA)


def _load_text(classifier: Classifier) -> Callable[[str], str]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = classifier.folder
    # Without its files, transformers makes a tokenizer that knows no words.
    if not has_tokenizer(str(folder)):
        raise TwistError(f"{classifier.source} holds no tokenizer: copy that of the model it was made from into it")
    with loading(f"{classifier.source} holds no tokenizer that transformers can read", folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = _loaded(classifier, AutoModelForSequenceClassification)
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    # RoBERTa's table has rows for the padding's id and those before it, which are no positions.
    offset = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
    max_length = min(int(tokenizer.model_max_length), int(positions) - offset)

    def label(text: str) -> str:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length).to(model.device)
        with torch.inference_mode():
            return str(model.config.id2label[int(model(**inputs).logits[0].argmax())])

    return label


def _load_speech(classifier: Classifier) -> Callable[[NDArray[np.float32]], str]:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    with loading(f"{classifier.source} holds no feature extractor that transformers can read", classifier.folder):
        extract = AutoFeatureExtractor.from_pretrained(
            classifier.folder, local_files_only=True, trust_remote_code=False
        )
    if extract.sampling_rate != SAMPLE_RATE_HZ:
        raise TwistError(
            f"{classifier.source} hears audio of {extract.sampling_rate} Hz; all audio here has {SAMPLE_RATE_HZ} Hz"
        )
    model = _loaded(classifier, AutoModelForAudioClassification)

    def label(wav: NDArray[np.float32]) -> str:
        wav = np.pad(wav, (0, max(0, SHORTEST - len(wav))))
        inputs = extract(wav, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return str(model.config.id2label[int(model(**inputs).logits[0].argmax())])

    return label


def _loaded(classifier: Classifier, kind: Any) -> Any:
    with loading(f"{classifier.source} cannot be loaded as a classifier of {classifier.modality}", classifier.folder):
        model, report = kind.from_pretrained(
            classifier.folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    if report["missing_keys"]:  # transformers would fill them with random numbers
        raise TwistError(f"{classifier.source} lacks tensors of its model, {min(report['missing_keys'])} among them")
    refuse_not_finite(model.state_dict(), classifier.source)
    # In float32, whatever it was stored in: figures must not depend on that.
    return model.float().to(pick_device(classifier.device)).eval()
