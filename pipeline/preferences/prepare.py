"""Makes the preference pairs of a run: units of three parts, filtered, in shards.

    triples (triples.py), or the model itself (own_continuations.py) -> RUN/preferences/

The shards are those of model/preferences/pair_shards.py.

Work files (spoken texts, parts of units, transcripts) lie in the stage's folder until it is finished: an interrupted
command goes on from them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.preferences.pair_shards import PREFERENCES as PREFERENCES_JSON
from model.preferences.pair_shards import PreferencePair, write_pair_shards
from pipeline.errors import TwistError
from pipeline.evaluation.speech.text_measures import auto_bleu_slamkit
from pipeline.files import storage
from pipeline.preferences.candidates import speak_texts, tokenize
from pipeline.preferences.triples import drawn, read_triples
from pipeline.records import Dropped
from pipeline.runs import PREFERENCES
from pipeline.speaking.tokenizer import encoder_of
from pipeline.stage import Stage, StageCounts, Tally, digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.subject import Subject
    from pipeline.preferences.candidates import Candidate
    from pipeline.preferences.config import PreferencesConfig
    from pipeline.preferences.triples import Triple

CORPUS = "preferences"
SCALE = 2**64


@dataclass(frozen=True)
class Prepared:
    """What became of the candidates: pairs, drops, and what was left unfiltered."""

    pairs: list[PreferencePair]
    dropped: list[Dropped]
    num_without_text: int


def prepare_preferences(run: str, config: PreferencesConfig, subject: Subject) -> None:
    """Makes RUN/preferences, and records what became of every candidate.

    Args:
        run: The run's folder, local or s3://.
        config: Where pairs come from.
        subject: The codebook, and for pairs from the model itself the model; its output is the stage's folder.

    Raises:
        TwistError: the source cannot be read, no pair is kept, or the folder holds pairs of other settings.
        RunError: a disk or store fails.
    """
    triples = None if config.are_own else _triples(config)
    stage = Stage(run, PREFERENCES, _settings(config, subject, triples), {})
    with stage.begin() as has_work:
        if not has_work:
            return
        prepared = filtered(_candidates(stage.uri, config, subject, triples), config)
        if not prepared.pairs:
            examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in prepared.dropped[:3])
            raise TwistError(f"of {len(prepared.dropped):,} candidates no pair is left: {examples}")
        info = {
            "num_units": subject.codebook.codebook_size,
            "frame_rate_hz": subject.frame_rate_hz,
            "encoder": subject.codebook.facts["encoder"],
            "codebook": {"fingerprint": subject.codebook.fingerprint},
        }
        dataset = write_pair_shards(stage.uri, prepared.pairs, config.pairs_per_shard, info)
        kept = Tally(len(prepared.pairs), sum(pair.facts["duration_s"] for pair in prepared.pairs) / 3600)
        dropped = Tally(len(prepared.dropped), sum(drop.duration_s for drop in prepared.dropped) / 3600)
        stage.finish(
            StageCounts.of(kept + dropped, kept, prepared.dropped),
            prepared.dropped,
            dataset.fingerprint,
            _work_files(stage.uri, [shard["path"] for shard in dataset.info["shards"]]),
            num_without_text=prepared.num_without_text,
            num_cut=sum(pair.facts.get("num_cut_tokens", 0) > 0 for pair in prepared.pairs),
            pairs={split: sum(pair.split == split for pair in prepared.pairs) for split in ("train", "validation")},
        )


def filtered(candidates: Sequence[Candidate], config: PreferencesConfig) -> Prepared:
    """The candidates that are kept, in an order drawn from the seed, and the others with their reasons."""
    pairs, dropped, num_without_text = [], [], 0
    for candidate in sorted(candidates, key=lambda one: drawn(config.seed, "order", one.pair_id)):
        reason, detail, auto_bleu = candidate.reason, candidate.detail, None
        if candidate.units is not None:
            if candidate.texts is None:
                num_without_text += 1
            elif config.max_auto_bleu is not None:
                auto_bleu = auto_bleu_slamkit(f"{candidate.texts[0]} {candidate.texts[1]}".strip())
                if auto_bleu >= config.max_auto_bleu:
                    reason, detail = "auto_bleu", f"prompt and chosen ending have {auto_bleu:.3f}"
            if not reason and np.array_equal(candidate.units[1], candidate.units[2]):
                reason, detail = "same_endings", "chosen and rejected have the same units"
        if reason:
            dropped.append(Dropped(candidate.pair_id, CORPUS, reason, detail, candidate.duration_s))
            continue
        assert candidate.units is not None
        prompt, chosen, rejected = candidate.units
        texts = dict(zip(("prompt_text", "chosen_text", "rejected_text"), candidate.texts or (), strict=False))
        facts = {**candidate.facts, **texts, "auto_bleu": auto_bleu, "duration_s": candidate.duration_s}
        split = candidate.split or _drawn_split(candidate.pair_id, config)
        pairs.append(PreferencePair(candidate.pair_id, split, prompt, chosen, rejected, facts))
    return Prepared(pairs, sorted(dropped, key=lambda drop: drop.id), num_without_text)


def _triples(config: PreferencesConfig) -> list[Triple]:
    if config.source is None:
        raise TwistError(
            "nothing says which pairs to make: give --preferences.source, or --preferences.continuations.asr and "
            "--preferences.continuations.text_lm for the model's own"
        )
    return read_triples(config.source, config.seed)


def _candidates(
    folder: str, config: PreferencesConfig, subject: Subject, triples: Sequence[Triple] | None
) -> list[Candidate]:
    if triples is None:
        from pipeline.preferences.own_continuations import own_pairs

        return own_pairs(subject, config.continuations, config.source)
    spoken = speak_texts(folder, triples, config.voices, config.seed, subject.report)
    encoder = encoder_of(subject.codebook, subject.device)
    return tokenize(folder, spoken, encoder, subject.codebook, subject.cluster, subject.report)


def _settings(config: PreferencesConfig, subject: Subject, triples: Sequence[Triple] | None) -> dict[str, Any]:
    """What can change pairs."""
    settings = {**asdict(config), "codebook": subject.codebook.fingerprint}
    if triples is None:
        from pipeline.evaluation.speech.asr import find_asr
        from pipeline.evaluation.speech.text_lm import find_text_lm

        asr, text_lm = config.continuations.require_models()
        settings["models"] = {
            "asr": find_asr(asr).fingerprint,
            "text_lm": find_text_lm(text_lm).fingerprint,
            "speech_lm": subject.model_fingerprint,
            "voice": subject.voice(config.continuations.vocoder).fingerprint,
        }
    else:
        settings["triples"] = digest(*(repr(triple) for triple in triples))
    return settings


def _drawn_split(pair_id: str, config: PreferencesConfig) -> str:
    is_held_out = drawn(config.seed, "split", pair_id) < config.validation_share * SCALE
    return "validation" if is_held_out else "train"


def _work_files(folder: str, shards: Sequence[str]) -> list[str]:
    """All that is of no use once the shards are written."""
    kept = {*shards, PREFERENCES_JSON, "pairs.parquet", "dropped.parquet"}
    return [storage.join(folder, name) for name in storage.list_files(folder) if "/" in name and name not in kept]
