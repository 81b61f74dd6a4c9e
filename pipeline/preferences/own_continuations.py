"""Pairs from the model itself: of several continuations of a prompt, the best and the worst by a text LM's judgement.

    first seconds of recordings -> units -> speech LM, n times -> voice -> ASR -> text LM: nats a token

Source: the way of Align-SLM (Lin et al. 2024), with a text LM's likelihood in place of a grade by instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.speech.asr import find_asr
from pipeline.evaluation.speech.continuations import continuations_of
from pipeline.evaluation.speech.generation import Spoken, choose_prompts
from pipeline.evaluation.speech.text_lm import find_text_lm, nats_of_texts
from pipeline.evaluation.speech.transcripts import transcripts_of
from pipeline.evaluation.speech.utterances import held_out_segments, read_utterances
from pipeline.preferences.candidates import Candidate
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.speech.continuations import Continuation
    from pipeline.evaluation.speech.text_lm import TextScore
    from pipeline.evaluation.subject import Subject
    from pipeline.preferences.config import ContinuationsConfig

SCOPE = "with prompt"


def own_pairs(subject: Subject, config: ContinuationsConfig, source: str | None) -> list[Candidate]:
    """A pair for each prompt. All that is made on the way is kept in the subject's output, and not made again.

    Args:
        subject: The speech LM and its codebook.
        config: Prompts, models and how many continuations.
        source: The speech that prompts are taken from; None: the run's segments.

    Raises:
        TwistError: no ASR, text LM or speech is named, or models do not fit together.
        RunError: a disk or store fails.
    """
    asr_folder, text_lm_folder = config.require_models()
    asr, text_lm = find_asr(asr_folder, subject.device), find_text_lm(text_lm_folder, subject.device)
    spoken = Spoken(subject.voice(config.vocoder))
    found = (
        read_utterances(source, config.split) if source is not None else held_out_segments(subject.run, config.split)
    )
    prompts, too_short = choose_prompts(found, config)
    units = subject.units([prompt.item for prompt in prompts.values()])
    continuations, fingerprint, without_room = continuations_of(
        subject, units, config.sampling, config.num_continuations
    )
    by_name = {one.name: one for one in continuations if len(one.units)}
    heard = transcripts_of(
        subject.output,
        list(by_name),
        digest(fingerprint, spoken.voice.fingerprint),
        lambda names: spoken.parts([(by_name[name], SCOPE) for name in names]),
        asr,
        subject.cluster,
        subject.report,
    )
    assert not heard.left_out, heard.left_out[0]
    texts = [heard.of[name] for name in by_name]
    scores = dict(
        zip(by_name, nats_of_texts(subject.output, texts, text_lm, subject.cluster, subject.report), strict=True)
    )
    of_prompt: dict[str, list[Continuation]] = {item_id: [] for item_id in units.of}
    for one in by_name.values():
        of_prompt[one.item_id].append(one)
    no_room = {left_out.item_id for left_out in without_room}
    candidates = [
        Candidate(left_out.item_id, None, None, 0.0, reason=left_out.reason, detail=left_out.detail)
        for left_out in (*too_short, *units.left_out, *without_room)
    ]
    for item_id, drawn in of_prompt.items():
        if item_id not in no_room:
            candidates.append(_pair(item_id, units.of[item_id].duration_s, drawn, scores, heard.of, config.min_gap))
    return candidates


def _pair(
    item_id: str,
    prompt_s: float,
    drawn: Sequence[Continuation],
    scores: Mapping[str, TextScore],
    texts: Mapping[str, str],
    min_gap: float,
) -> Candidate:
    """The best and the worst continuation of a prompt. One in which nothing is heard is never the best."""
    nats_per_token = {
        one.name: scores[one.name].nats / scores[one.name].num_tokens if scores[one.name].num_tokens else np.inf
        for one in drawn
    }
    in_order = sorted(drawn, key=lambda one: (nats_per_token[one.name], one.name))
    if len(in_order) < 2 or not np.isfinite(nats_per_token[in_order[0].name]):
        return Candidate(item_id, None, None, prompt_s, reason="not_heard", detail="too few continuations with words")
    best, worst = in_order[0], in_order[-1]
    gap = nats_per_token[worst.name] - nats_per_token[best.name]
    if not gap >= max(min_gap, np.finfo(float).tiny):
        detail = f"best and worst differ by {gap:.3f} nats a token"
        return Candidate(item_id, None, None, prompt_s, reason="alike", detail=detail)
    facts = {
        "chosen_nats": nats_per_token[best.name],
        "rejected_nats": nats_per_token[worst.name] if np.isfinite(gap) else None,
        "num_cut_tokens": scores[best.name].num_cut_tokens + scores[worst.name].num_cut_tokens,
    }
    units = (best.prompt, best.units, worst.units)
    # What is heard is prompt and ending in one.
    return Candidate(item_id, units, ("", texts[best.name], texts[worst.name]), prompt_s, facts=facts)
