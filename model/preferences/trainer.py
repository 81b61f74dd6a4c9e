"""Tunes a speech LM on preference pairs (DPO); a resumed run equals an uninterrupted one to the bit.

1. The model comes from the newest checkpoint in the folder; if there is none, it is the reference itself.
2. The reference's log-probabilities of all endings are computed once and kept (reference.py).
3. Each step: gradients of the mean DPO loss over the pairs of the global batch, without dropout.
4. On schedule: metrics, validation and checkpoints, as for every training (model/training/loop.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from model.lm.speech_lm import load_speech_lm, require_positions, weights_on_cpu
from model.lm.text_lm import text_tokenizer
from model.lm.working_model import WorkingModel
from model.preferences.dpo import PairLogProbs, dpo_loss, dpo_margins, ending_log_probs, without_dropout
from model.preferences.pair_batches import PairBatch, PairBatches, TokenizedPairs
from model.preferences.pair_shards import PairDataset, open_pairs
from model.preferences.reference import log_probs, reference_log_probs
from model.training import checkpoint
from model.training.distributed import Ranks, gradient_sync
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Resumed, Training
from model.weights_file import fingerprint_of_folder
from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from model.lm.vocab import Vocabulary
    from model.preferences.tune_config import TuneConfig


@dataclass(frozen=True)
class PreferenceReport:
    """How well a model tells the better ending of held-out pairs; a tie counts half.

    Attributes:
        loss: DPO's mean loss.
        accuracy: Share of pairs whose chosen ending is the likelier one.
        gain_accuracy: Share of pairs on whose chosen ending the model has gained more than on the rejected one.
        margin: Mean difference of these gains, times beta.
        num_pairs: The pairs.
    """

    loss: float
    accuracy: float
    gain_accuracy: float
    margin: float
    num_pairs: int


@dataclass(frozen=True)
class TuneResult:
    """The result of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        num_pairs_seen: Pairs trained on, over all resumptions.
        initial: Validation of the reference.
        best: The validation with the lowest loss after an update; None if the run was stopped before it validated.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if SIGTERM stopped the run; start it again to continue.
    """

    num_steps: int
    num_pairs_seen: int
    initial: PreferenceReport
    best: PreferenceReport | None
    checkpoint: str
    is_finished: bool


def tune(config: TuneConfig, init: str, pairs: str, checkpoints: str, on_event: OnEvent = lambda _: None) -> TuneResult:
    """Tunes a speech LM, continuing from the newest checkpoint if there is one.

    Under torchrun every process calls this, with the same `checkpoints` folder, which all can access.

    Args:
        config: How to tune.
        init: The reference: a checkpoint's folder, local or s3://.
        pairs: Folder of finished preference pairs, local or s3://.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: pairs, settings, checkpoints and model do not fit together, or the loss is no longer finite.
    """
    dataset = open_pairs(pairs)

    def make(ranks: Ranks, resumed: Resumed | None, _: object) -> PreferenceTraining:
        return PreferenceTraining(config, init, dataset, checkpoints, ranks, resumed)

    outcome, training = run_training("tune", config, checkpoints, make, on_event)
    assert isinstance(training, PreferenceTraining)
    return TuneResult(
        num_steps=outcome.num_steps,
        num_pairs_seen=outcome.num_seen,
        initial=training.initial,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
    )


class PreferenceTraining(Training[PairBatch, PreferenceReport]):
    """Tuning a speech LM, in one process."""

    seen_name = "num_pairs_seen"
    initial: PreferenceReport

    def __init__(
        self, config: TuneConfig, init: str, dataset: PairDataset, folder: str, ranks: Ranks, resumed: Resumed | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._ranks = ranks
        reference = checkpoint.fetch(init)
        self._fingerprints = {"pairs": dataset.fingerprint, "reference": fingerprint_of_folder(reference)}
        if resumed:
            _refuse_others(resumed.state["fingerprints"], self._fingerprints, folder)
            self.initial = PreferenceReport(**resumed.state["progress"]["initial"])
        self._lm, vocabulary = load_speech_lm(str(resumed.folder if resumed else reference))
        vocabulary = _vocabulary_for(vocabulary, dataset)
        self._tokenizer = text_tokenizer(str(reference), vocabulary) if vocabulary.text_size else None
        num_specials = len(vocabulary.start_ids) + len(vocabulary.end_ids)
        require_positions(self._lm.config, config.max_units, num_specials)
        self._train, self._validation = (
            TokenizedPairs(dataset, split, vocabulary, config.max_units) for split in ("train", "validation")
        )
        self._batches = PairBatches(self._train, config, ranks.rank, ranks.world_size)
        without_dropout(self._lm)
        self._working = WorkingModel.of(self._lm, config, ranks)
        self.model = self._lm
        # Before any forward pass: after one, sharded weights are whole until the next backward pass.
        self.optimizer = adamw(self._lm, config.betas, config.weight_decay)

        def model() -> nn.Module:
            return self._working.own if resumed is None else _working(str(reference), config, ranks)

        identity = [*self._fingerprints.values(), config.precision]
        self._of_train, self._of_validation = (
            reference_log_probs(folder, split, pairs, identity, model, ranks)
            for split, pairs in (("train", self._train), ("validation", self._validation))
        )

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._lm.parameters()),
            "num_train_pairs": len(self._train),
            "num_validation_pairs": len(self._validation),
            "num_too_long": self._train.num_too_long + self._validation.num_too_long,
        }

    def begin(self, report: Callable[[int, PreferenceReport], None]) -> None:
        self.initial = self.validate()
        report(0, self.initial)

    def batches(self, start: int, stop: int) -> Iterable[PairBatch]:
        return iterate(self._batches, start, stop, self._config.num_workers)

    def amount(self, batch: PairBatch) -> int:
        return self._config.batch_size

    def backward(self, batch: PairBatch) -> dict[str, float]:
        config, ranks = self._config, self._ranks
        sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            of_reference = _take(self._of_train, micro_batch.indices, ranks.device)
            with gradient_sync(self._working.data_parallel, is_last=number == len(batch.micro_batches)):
                of_policy = ending_log_probs(self._working.data_parallel, micro_batch)
                loss = dpo_loss(of_policy, of_reference, config.beta)
                # Data parallelism averages over processes; we want the mean over the pairs of all.
                torch.autograd.backward(loss.sum() * (ranks.world_size / config.batch_size))
            margins = dpo_margins(of_policy, of_reference, config.beta).detach()
            sums += torch.stack([loss.detach().sum(), _share_above_zero(margins).sum(), margins.sum()]).double()
        loss_sum, num_right, margin = (ranks.sum(sums) / config.batch_size).tolist()
        return {"loss": loss_sum, "gain_accuracy": num_right, "margin": margin}

    def after_update(self) -> None:
        self._working.round_weights()

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"pairs": num_seen, "pairs_per_s": round(num_new / seconds, 2)}

    def validate(self) -> PreferenceReport:
        of_policy = log_probs(self._working.own, self._validation, self._ranks)
        margins = dpo_margins(of_policy, self._of_validation, self._config.beta)
        return PreferenceReport(
            loss=dpo_loss(of_policy, self._of_validation, self._config.beta).mean().item(),
            accuracy=_share_above_zero(of_policy.chosen - of_policy.rejected).mean().item(),
            gain_accuracy=_share_above_zero(margins).mean().item(),
            margin=margins.mean().item(),
            num_pairs=len(self._validation),
        )

    def is_better(self, score: PreferenceReport, best: PreferenceReport | None, step: int) -> bool:
        return best is None or score.loss < best.loss

    def score_of(self, content: dict[str, Any]) -> PreferenceReport:
        return PreferenceReport(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"fingerprints": self._fingerprints}

    def progress(self, num_seen: int) -> dict[str, Any]:
        return {self.seen_name: num_seen, "initial": asdict(self.initial)}

    def copy_model(self) -> Callable[[Path], None]:
        weights = weights_on_cpu(self._lm, keep=self._ranks.is_main)

        def write(folder: Path) -> None:
            self._lm.save_pretrained(folder, state_dict=weights, max_shard_size="4GB")
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(folder)

        return write

    def blame(self, batch: PairBatch) -> str:
        path = storage.join(self._folder, f"non-finite-{batch.index + 1:08d}.json")
        if self._ranks.is_main:
            content = {"step": batch.index + 1, "pairs": self._batches.ids(batch.index)}
            storage.write_bytes(path, (json.dumps(content) + "\n").encode())
        return f"The step's pairs are named in {path}; look at them. "


def _working(folder: str, config: TuneConfig, ranks: Ranks) -> nn.Module:
    """The reference, as it was when tuning began."""
    lm: PreTrainedModel = load_speech_lm(folder)[0]
    without_dropout(lm)
    return WorkingModel.of(lm, config, ranks).own


def _vocabulary_for(vocabulary: Vocabulary, dataset: PairDataset) -> Vocabulary:
    """The model's vocabulary for the units of these pairs.

    Raises:
        TwistError: they come from another codebook than the model's, or the model says pitch and style too.
    """
    if vocabulary.is_expressive:
        raise TwistError(
            f"the model says pitch and style beside units, and {dataset.uri} has units alone, which it never saw so: "
            f"tune a model of units, or of text and units"
        )
    mine = vocabulary.of_units(dataset.codebook_size)
    if mine is None or vocabulary.codebook_fingerprint not in (None, dataset.codebook_fingerprint):
        raise TwistError(
            f"{dataset.uri} has units of another codebook than the model's: the same numbers mean other sounds; make "
            f"the pairs with the model's codebook"
        )
    return mine


def _refuse_others(before: dict[str, str], now: dict[str, str], folder: str) -> None:
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise TwistError(
            f"{folder} holds checkpoints that were tuned on another {' and other '.join(changed)} than those given: "
            f"give the former, or tune into another folder"
        )


def _take(log_probs: PairLogProbs, indices: tuple[int, ...], device: torch.device) -> PairLogProbs:
    rows = torch.tensor(indices)
    return PairLogProbs(*(part[rows].float().to(device) for part in log_probs))


def _share_above_zero(values: Tensor) -> Tensor:
    """1 for each value above 0, and a half for 0, in float64."""
    return ((values > 0).double() + (values >= 0).double()) / 2
