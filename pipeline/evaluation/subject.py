"""What is measured, and what that takes: a codebook, perhaps a speech LM and a voice, and a folder for results."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from model.lm.parts import Part
from model.lm.scoring import scored_as
from model.lm.streams import StreamRates, Streams, merge
from model.training import checkpoint
from model.weights_file import fingerprint_of_folder
from pipeline.errors import TwistError
from pipeline.evaluation import results
from pipeline.evaluation.item_units import CodeSource, units_of_items
from pipeline.evaluation.results import EVALUATION
from pipeline.files import storage
from pipeline.speaking.code_models import load_code_models
from pipeline.speaking.expressive import require_own_codes
from pipeline.speaking.names import OFFICIAL_MODELS
from pipeline.speaking.speech_lm import SpeechLM, load_lm
from pipeline.speaking.tokenizer import encoder_of, find_codebook
from pipeline.speaking.voice import voice_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from model.device import Device
    from model.pitch.model_config import Extractor
    from pipeline.evaluation.config import EvaluationConfig
    from pipeline.evaluation.item_units import AudioItem, ItemUnits, UnitRow
    from pipeline.evaluation.measures import Measure
    from pipeline.evaluation.results import LeftOut, Result
    from pipeline.progress import ReportProgress
    from pipeline.speaking.voice import DType, Voice
    from pipeline.units.codebook import Codebook
    from pipeline.work.cluster import ClusterConfig


class Heard(NamedTuple):
    """What gives an expressive speech LM pitch and style beside units, and how many a second there are of each."""

    codes: CodeSource
    rates: StreamRates


@dataclass(frozen=True)
class Subject:
    """A speech LM and its tokenizer, or a tokenizer alone, as they are measured. Both are loaded at first use.

    Attributes:
        checkpoint: The speech LM: a checkpoint's folder, local or s3://, or a published name; None if no benchmark
            needs one.
        codebook_source: What its units come from: a run, a codebook's folder or a name.
        run: The run, whose vocoder speaks; "" if there is none.
        output: Where units and results are kept: RUN/evaluation.
        config: The benchmarks' settings.
        cluster: How much of the cluster to use.
        device: Where the models run.
        dtype: What the speech LM computes in.
        report: Takes the progress of tokenization.
        pitch_model, style_model: What an expressive speech LM hears with: a folder, or an embedded one's name.
        extractor: What F0 comes from for the first; None: what it was trained on.
        level, seed: Of confidence intervals: the share of draws that they hold, and the seed of these.
    """

    checkpoint: str | None
    codebook_source: str
    run: str
    output: str
    config: EvaluationConfig
    cluster: ClusterConfig
    device: Device
    report: ReportProgress
    level: float = 0.95
    seed: int = 0
    dtype: DType = "float32"
    pitch_model: str | None = None
    style_model: str | None = None
    extractor: Extractor | None = None

    @functools.cached_property
    def codebook(self) -> Codebook:
        """The codebook; its encoder's settings go with it."""
        return find_codebook(self.codebook_source)

    @functools.cached_property
    def lm(self) -> SpeechLM:
        """The speech LM.

        Raises:
            TwistError: it cannot be loaded, or was trained on units of another codebook.
        """
        assert self.checkpoint is not None, "a benchmark needs a speech LM, and the command found none for it"
        lm = load_lm(self.checkpoint, self.device, self.dtype)
        lm.require_codebook(self.codebook, self.codebook_source)
        return lm

    @functools.cached_property
    def model_fingerprint(self) -> str:
        """A hash of the speech LM's files."""
        return fingerprint_of_folder(checkpoint.fetch(self.lm.path))

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second of the codebook's encoder."""
        return float(self.codebook.facts["encoder"]["frame_rate_hz"])

    def folder_of(self, result: Result) -> str:
        """Where a result lies: with those of its checkpoint, or of the codebook where no speech LM took part."""
        if result.fingerprints["model"] is None:
            return storage.join(self.output, f"units-{self.codebook.fingerprint[:8]}")
        assert self.checkpoint is not None
        return storage.join(self.output, name_of(self.checkpoint, self.output))

    def voice(self, named: str | None) -> Voice:
        """The voice of a name, or the one that belongs to the run or the units.

        Raises:
            TwistError: there is none, or it speaks other units.
        """
        return voice_for(self.codebook, named=named, run=self.run, device=self.device)

    def units(self, items: Sequence[AudioItem]) -> ItemUnits:
        """The units of a benchmark's audio, made once and kept.

        Raises:
            TwistError: two items have one id.
            RunError: a disk or store fails.
        """
        encoder = encoder_of(self.codebook, self.device)
        return units_of_items(self.output, items, encoder, self.codebook, self.cluster, self.report)

    @functools.cached_property
    def heard(self) -> Heard | None:
        """What an expressive speech LM hears beside units; None for a model of units alone.

        Raises:
            TwistError: the models of pitch and style are not named, or are others than those it was trained on.
        """
        if not self.lm.vocabulary.is_expressive:
            return None
        if self.pitch_model is None or self.style_model is None:
            raise TwistError(
                f"{self.checkpoint} was trained on units, pitch and style: name what it hears with, pitch.model and "
                f"style.model"
            )
        models = load_code_models(self.pitch_model, self.style_model, "cpu", self.extractor)
        require_own_codes(models["pitch"], models["style"], self.lm.vocabulary)
        rates = StreamRates(self.frame_rate_hz, models["pitch"].rate_hz, models["style"].rate_hz)
        fingerprints = models["pitch"].fingerprint, models["style"].fingerprint
        return Heard(CodeSource(self.pitch_model, self.style_model, fingerprints, self.extractor), rates)

    def units_heard(self, items: Sequence[AudioItem]) -> ItemUnits:
        """As `units`, with pitch and style for an expressive speech LM.

        Raises:
            TwistError: as `heard` and `units`.
            RunError: a disk or store fails.
        """
        encoder = encoder_of(self.codebook, self.device)
        codes = self.heard.codes if self.heard else None
        return units_of_items(self.output, items, encoder, self.codebook, self.cluster, self.report, codes)

    def part_of(self, row: UnitRow) -> Part:
        """What `units_heard` has of a recording, as a part of a sequence of text and speech: merged, if expressive."""
        if self.heard is None:
            return Part("speech", row.units.astype(np.int64))
        assert row.pitch is not None and row.style is not None
        streams = Streams(row.units, row.durations, row.pitch, row.style)
        return Part("speech", merge([streams], self.lm.vocabulary, self.heard.rates).ids - self.lm.vocabulary.offset)

    def _scoring(self) -> dict[str, Any]:
        """What is scored of a sequence, as it came out for this model."""
        vocabulary, has_end = scored_as(self.lm.vocabulary, self.config.scoring)
        repeats = self.config.scoring.repeats
        return {
            "scoring": {"bos": vocabulary.bos_id is not None, "eos": has_end, "repeats": repeats},
            "dtype": self.dtype,
        }

    def result(
        self,
        benchmark: str,
        measures: Sequence[Measure],
        items: pa.Table,
        *,
        rule: str,
        settings: dict[str, Any],
        data: str,
        left_out: Iterable[LeftOut] = (),
        notes: Sequence[str] = (),
        needs_lm: bool = True,
        other_models: Mapping[str, str] | None = None,
    ) -> Result:
        """The result of a benchmark on this subject; takes and raises what `results.result_of` does.

        `other_models`: fingerprints of what else was used, such as `asr`.
        """
        return results.result_of(
            benchmark,
            self.checkpoint if needs_lm and self.checkpoint is not None else self.codebook_source,
            measures,
            items,
            rule=rule,
            settings={**settings, **(self._scoring() if needs_lm else {})},
            fingerprints={
                "data": data,
                "codebook": self.codebook.fingerprint,
                "model": self.model_fingerprint if needs_lm else None,
                **(other_models or {}),
            },
            level=self.level,
            seed=self.seed,
            left_out=left_out,
            notes=notes,
        )


def name_of(checkpoint_folder: str, output: str) -> str:
    """Where a checkpoint's results are filed: its step, if it is this run's; else its name and a hash of its path."""
    if checkpoint_folder.lower() in OFFICIAL_MODELS:
        return checkpoint_folder.lower()
    folder = storage.absolute(checkpoint_folder)
    above, _, name = folder.rstrip("/").rpartition("/")
    if above == storage.join(storage.absolute(output).removesuffix(f"/{EVALUATION}"), "checkpoints"):
        return name
    return f"{name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
