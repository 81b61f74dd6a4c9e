"""STSP, the Speech-Text Sentiment Preservation benchmark: does what a model says have the sentiment of its prompt?

    texts, recordings -> prompts, with examples -> model -> text, or units and voice -> classifier -> sentiment

A result for each direction. Source: Nguyen et al. 2024 (SpiRit-LM), section 5.2, appendix D and its released benchmark.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.audio.read import AudioError, probe
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem, ItemUnits
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import OUR_OWN, LeftOut
from pipeline.evaluation.sentiment.answers import Answer, Drawing, answers_of, encoded, with_room
from pipeline.evaluation.sentiment.classifier import Classifier, Judged, find_classifier, judge
from pipeline.evaluation.sentiment.predictions import SENTIMENTS, Prediction, write_predictions
from pipeline.evaluation.sentiment.prompts import HALVES, half_name, stsp_prompt
from pipeline.evaluation.sentiment.records import (
    StspRecord,
    answered_in,
    asked_in,
    draw_shots,
    read_records,
    read_shots,
)
from pipeline.evaluation.speech.audio_reader import audio_reader
from pipeline.evaluation.speech.transcripts import as_heard
from pipeline.files import storage
from pipeline.speaking.expressive import spoken_of
from pipeline.speaking.spoken import write_wav
from pipeline.speaking.text_and_speech import TextAndSpeechLM, speak
from pipeline.stage import digest
from pipeline.synthetic import benchmark_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from model.lm.modality import Modality
    from model.lm.parts import Part
    from pipeline.evaluation.config import StspConfig
    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.sentiment.records import Direction, Shot
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.voice import Voice

RULE = "share of answers whose sentiment, by the classifier, is the prompt's; mean of the sets"
CLASSIFIERS: dict[Modality, str] = {"text": "model/text_classifier", "speech": "model/speech_classifier"}


def stsp(subject: Subject) -> Iterator[Result]:
    """STSP: a result for each direction.

    Raises:
        TwistError: no data or classifier is named, they or the model do not fit, or no prompt can be answered.
        RunError: a disk or store fails.
    """
    config = subject.config.stsp
    if config.folder is None:
        raise TwistError("stsp needs its data: give --evaluation.stsp.folder")
    classifiers = _classifiers(subject, config.folder)
    for direction in config.directions:
        if answered_in(direction) not in classifiers:
            name = f"{answered_in(direction)}_classifier"
            raise TwistError(
                f"stsp needs what tells the sentiment of {answered_in(direction)}: give --evaluation.stsp.{name}"
            )
    model = TextAndSpeechLM(subject.lm)
    for direction in config.directions:
        yield _Measured(subject, config, config.folder, direction, model, classifiers).result()


def _classifiers(subject: Subject, folder: str) -> dict[Modality, Classifier]:
    """Those that are named, and those in the benchmark's folder."""
    config = subject.config.stsp
    found: dict[Modality, Classifier] = {}
    of_modality: dict[Modality, str | None] = {"text": config.text_classifier, "speech": config.speech_classifier}
    for modality, named in of_modality.items():
        published = storage.join(folder, CLASSIFIERS[modality])
        if named is None and storage.exists(storage.join(published, "config.json")):
            named = published
        if named is not None:
            found[modality] = find_classifier(named, modality, config.labels, subject.device)
    return found


@dataclass(frozen=True)
class _Measured:
    """One direction of the benchmark on a subject."""

    subject: Subject
    config: StspConfig
    folder: str
    direction: Direction
    model: TextAndSpeechLM
    classifiers: Mapping[Modality, Classifier]

    @property
    def name(self) -> str:
        return f"stsp_{self.direction}" + (f"_{self.config.shots}shot" if self.config.shots else "")

    def result(self) -> Result:
        """Asks, judges and counts.

        Raises:
            TwistError: as `stsp`.
        """
        subject, config, direction = self.subject, self.config, self.direction
        question, answer = asked_in(direction), answered_in(direction)
        sets = config.text_sets if question == "text" else config.speech_sets
        of_sets = read_records(self.folder, question, config.split, sets)
        records = {one.item_id: one for of_set in of_sets.values() for one in _spread(of_set, config.max_items)}
        runs = [self._shots(run) for run in range(config.num_runs)]
        heard = self._units(records)
        speech = {name: subject.part_of(row) for name, row in {**self._halves(runs), **heard.of}.items()}
        askable = {name: one for name, one in records.items() if question == "text" or name in heard.of}
        left_out = list(heard.left_out)

        max_new = config.max_new_text_tokens if answer == "text" else config.max_new_speech_tokens
        drawing = Drawing(answer, config.sampling, max_new, config.num_runs, config.num_tries, config.batch_size)
        voice = subject.voice(config.vocoder) if answer == "speech" else None
        judged_prompts = self._judge_prompts(askable, heard)
        answers: list[dict[str, Answer]] = []
        fingerprints = []
        for run, shots in enumerate(runs):
            prompts = {
                name: encoded(
                    stsp_prompt(direction, shots, one.content if question == "text" else name), self.model, speech
                )
                for name, one in askable.items()
            }
            fitting, too_long = with_room(prompts, subject, drawing)
            left_out += [one for one in too_long if one not in left_out]
            of_run, fingerprint = answers_of(subject, self.model, fitting, drawing, run)
            answers.append(of_run)
            fingerprints.append(fingerprint)
        judged = self._judge_answers(answers, digest(*fingerprints), voice)
        left_out += judged.left_out
        rows = [
            self._row(records[name], answer, judged, run, judged_prompts)
            for run, of_run in enumerate(answers)
            for name, answer in of_run.items()
            if answer.is_empty or _of_run(name, run) in judged.labels
        ]
        for run, of_run in enumerate(answers):
            self._write(records, rows, run, of_run, voice)
        return self._result(records, rows, left_out, fingerprints, voice, heard)

    def _shots(self, run: int) -> list[Shot]:
        config = self.config
        if not config.shots:
            return []
        return draw_shots(read_shots(self.folder, self.direction), config.shots, config.sampling.seed + run)

    def _units(self, records: Mapping[str, StspRecord]) -> ItemUnits:
        """The units of the recordings that are prompts, by item; of none, where texts are."""
        if asked_in(self.direction) == "text":
            return ItemUnits({}, (), digest(), digest())
        return self.subject.units_heard([AudioItem(name, one.content) for name, one in records.items()])

    def _halves(self, runs: Sequence[Sequence[Shot]]) -> Mapping[str, UnitRow]:
        """The units of the halves of clips that examples show, by the halves' names.

        Raises:
            TwistError: one cannot be used.
        """
        halves: dict[str, AudioItem] = {}
        for shot in (shot for shots in runs for shot in shots):
            for modality, uri, half in (
                (asked_in(self.direction), shot.prompt, HALVES[0]),
                (answered_in(self.direction), shot.generation, HALVES[1]),
            ):
                if modality == "speech" and half_name(uri, half) not in halves:
                    halves[half_name(uri, half)] = _half(uri, half)
        if not halves:
            return {}
        units = self.subject.units_heard(list(halves.values()))
        for one in units.left_out:
            raise TwistError(f"the example {one.item_id} cannot be used: it is {one.reason} ({one.detail})")
        return units.of

    def _judge_prompts(self, records: Mapping[str, StspRecord], heard: ItemUnits) -> Judged | None:
        """What the classifier of the prompts' modality finds in these themselves: the most that can be expected."""
        modality = asked_in(self.direction)
        classifier = self.classifiers.get(modality)
        if classifier is None:
            return None
        if modality == "text":
            texts = {name: one.content for name, one in records.items()}
            fingerprint = digest(*texts.values())
            return self._judge(list(texts), fingerprint, lambda ids: [texts[one] for one in ids], classifier)
        items = {name: AudioItem(name, one.content) for name, one in records.items()}
        return self._judge(list(items), heard.audio_fingerprint, audio_reader(items), classifier)

    def _judge_answers(self, answers: Sequence[Mapping[str, Answer]], fingerprint: str, voice: Voice | None) -> Judged:
        """The label of each answer of each run in which there is something to judge."""
        said = {
            _of_run(name, run): answer
            for run, of_run in enumerate(answers)
            for name, answer in of_run.items()
            if not answer.is_empty
        }
        classifier = self.classifiers[answered_in(self.direction)]
        if voice is None:
            return self._judge(list(said), fingerprint, lambda ids: [said[one].text for one in ids], classifier)
        return self._judge(
            list(said),
            digest(fingerprint, voice.fingerprint),
            lambda ids: [as_heard(self._speak(said[one], voice), voice.sample_rate_hz) for one in ids],
            classifier,
        )

    def _judge(self, ids: Sequence[str], fingerprint: str, read: Any, classifier: Classifier) -> Judged:
        subject = self.subject
        return judge(subject.output, ids, fingerprint, read, classifier, subject.cluster, subject.report)

    def _speak(self, answer: Answer, voice: Voice) -> NDArray[np.float32]:
        assert answer.units is not None
        before: Part = answer.prompt[-1]
        spoken, num_given = spoken_of(answer.units, self.model.lm.vocabulary, before)
        return speak(spoken, num_given, self.subject.codebook, voice, self.model.lm.vocabulary)[1]

    def _row(
        self, record: StspRecord, answer: Answer, judged: Judged, run: int, prompts: Judged | None
    ) -> dict[str, Any]:
        label = judged.labels.get(_of_run(record.item_id, run), "")
        classifier = self.classifiers[answered_in(self.direction)]
        predicted = classifier.sentiment(label) if label else ""
        row = {
            "item_id": _of_run(record.item_id, run),
            GROUP: record.item_id,
            "set": record.set_name,
            "run": run,
            "record_id": record.record_id,
            "speaker": record.speaker,
            "sentiment": record.sentiment,
            "label": label,
            "predicted": predicted,
            "is_right": predicted == record.sentiment,
            "is_empty": answer.is_empty,
            "num_tries": answer.num_tries,
            "text": answer.text,
        }
        if prompts is not None:
            own = prompts.labels.get(record.item_id)
            of_prompt = self.classifiers[asked_in(self.direction)]
            row["prompt_is_judged"] = own is not None
            row["prompt_is_right"] = own is not None and of_prompt.sentiment(own) == record.sentiment
        return row

    def _write(
        self,
        records: Mapping[str, StspRecord],
        rows: Sequence[Mapping[str, Any]],
        run: int,
        answers: Mapping[str, Answer],
        voice: Voice | None,
    ) -> None:
        """Writes what was spoken, and the predictions of a run: a file a set, a line a record, in their order."""
        config = self.config
        files: dict[str, str] = {}
        if config.wavs is not None and voice is not None:
            for name, answer in answers.items():
                if not answer.is_empty:
                    stem = re.sub(r"[^\w.-]+", "-", name)
                    path = Path(config.wavs, self.name, f"{stem}.{run}.wav")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_wav(path, self._speak(answer, voice), voice.sample_rate_hz)
                    files[name] = str(path)
        if config.predictions is None:
            return
        predicted = {row[GROUP]: row["predicted"] for row in rows if row["run"] == run}
        for set_name in dict.fromkeys(one.set_name for one in records.values()):
            lines = []
            for name, one in records.items():
                if one.set_name == set_name:
                    said = answers[name].text if name in answers else None
                    lines.append(Prediction(one.record_id, predicted.get(name, ""), files.get(name, said)))
            write_predictions(storage.join(config.predictions, f"{self.name}.{set_name}.{run}.jsonl"), lines)

    def _result(
        self,
        records: Mapping[str, StspRecord],
        rows: Sequence[dict[str, Any]],
        left_out: Sequence[LeftOut],
        fingerprints: Sequence[str],
        voice: Voice | None,
        heard: ItemUnits,
    ) -> Result:
        config, subject = self.config, self.subject
        table = pa.Table.from_pylist(list(rows))
        measures: list[Measure] = []
        if rows:
            table, measures = _measures(table)
        classifier = self.classifiers[answered_in(self.direction)]
        used = dict(self.classifiers)
        settings = {
            **{name: value for name, value in asdict(config).items() if name not in _NOT_OF_A_DIRECTION},
            "direction": self.direction,
            "sets": list(dict.fromkeys(one.set_name for one in records.values())),
            **{f"{modality}_classifier": one.fingerprint for modality, one in used.items()},
        }
        notes = [f"Judged by {classifier.source}" + (f", spoken by {voice.path}." if voice else ".")]
        if storage.exists(storage.join(self.folder, benchmark_folder.MARKER)):
            notes.append(OUR_OWN)
        return subject.result(
            self.name,
            measures,
            table,
            rule=RULE,
            settings=settings,
            data=digest(heard.fingerprint, *(f"{one.item_id} {one.sentiment}" for one in records.values())),
            left_out=left_out,
            notes=notes,
            other_models={
                "answers": digest(*fingerprints),
                **{f"{modality}_classifier": one.fingerprint for modality, one in used.items()},
                **({"vocoder": voice.fingerprint} if voice else {}),
            },
        )


# Files, other directions, and what changes no answer.
_NOT_OF_A_DIRECTION = (
    "directions", "text_sets", "speech_sets", "text_classifier", "speech_classifier", "batch_size", "vocoder",
    "predictions", "wavs",
)  # fmt: skip


def _of_run(item_id: str, run: int) -> str:
    return f"{item_id} run {run}"


def _half(uri: str, half: str) -> AudioItem:
    """A half of an example's clip.

    Raises:
        TwistError: the clip cannot be read.
    """
    try:
        middle_s = probe(uri).duration_s / 2
    except AudioError as error:
        raise TwistError(f"the example {uri} cannot be read: {error}") from error
    return AudioItem(half_name(uri, half), uri, *((0.0, middle_s) if half == HALVES[0] else (middle_s, None)))


def _spread(records: Sequence[StspRecord], num: int | None) -> Sequence[StspRecord]:
    """As many records, evenly spread over all; all of them for None."""
    if num is None or num >= len(records):
        return records
    return [records[place * len(records) // num] for place in range(num)]


def _measures(table: pa.Table) -> tuple[pa.Table, list[Measure]]:
    """The table with columns that say what counts, and what can be told of it."""
    measures = [Measure("accuracy", "is_right", mean_over="set")]
    for name, values in (("set", dict.fromkeys(table["set"].to_pylist())), ("sentiment", SENTIMENTS)):
        of_rows = table[name].to_pylist()
        for value in values:
            column = f"{name} {value}"
            table = table.append_column(column, pa.array([one == value for one in of_rows]))
            measures.append(Measure(f"accuracy, {value}", "is_right", where=column))
    measures += [Measure("nothing to judge", "is_empty"), Measure("tries", "num_tries")]
    if "prompt_is_right" in table.column_names:
        measures.append(
            Measure("accuracy of the prompts themselves", "prompt_is_right", where="prompt_is_judged", mean_over="set")
        )
    return table, measures
