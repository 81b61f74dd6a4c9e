from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from model import checkpoint
from model.optim import adamw, set_learning_rate
from model.speech_lm import cold_start, load_speech_lm
from model.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = Vocabulary(20, codebook_fingerprint="codebook-1")


@pytest.fixture
def trained(tiny_opt: dict[str, Any]) -> tuple[PreTrainedModel, torch.optim.Optimizer]:
    """A model and its optimizer after two updates."""
    model = cold_start(tiny_opt, VOCABULARY, seed=0)
    optimizer = adamw(model, (0.9, 0.98), 0.01)
    set_learning_rate(optimizer, 1e-3)
    for _ in range(2):
        update(model, optimizer)
    return model, optimizer


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    model.eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_loaded_equals_saved(trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = trained
    state = {"progress": {"step": 2, "perplexity": 1.5}}
    checkpoint.save(tmp_path, 2, model.save_pretrained, optimizer, state)

    loaded, vocabulary = load_speech_lm(str(checkpoint.step_folder(tmp_path, 2)))
    loaded_optimizer = adamw(loaded, (0.9, 0.98), 0.01)
    checkpoint.load_optimizer(tmp_path, 2, loaded_optimizer)
    assert vocabulary == VOCABULARY
    assert checkpoint.load_trainer_state(tmp_path, 2) == state
    for _ in range(2):  # an optimizer that lost its moments or its step count shows in the next updates
        update(model, optimizer)
        update(loaded, loaded_optimizer)
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), f"{name} is updated differently after loading"


def test_half_written_checkpoint_is_no_checkpoint(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained
    checkpoint.save(tmp_path, 2, model.save_pretrained, optimizer, {})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("save", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(torch if name == "save" else Path, name, die)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, 4, model.save_pretrained, optimizer, {})
        assert checkpoint.steps(tmp_path) == [2], "a checkpoint has its name before it is whole"
        checkpoint.remove_unfinished(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["00000002"], "what a killed run left half-written stays"
    checkpoint.save(tmp_path, 4, model.save_pretrained, optimizer, {})
    assert checkpoint.steps(tmp_path) == [2, 4]


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 100_000_000):
        checkpoint.step_folder(tmp_path, step).mkdir()
    (tmp_path / "notes").mkdir()
    checkpoint.prune(tmp_path, keep_last=2, best_step=2)
    assert checkpoint.steps(tmp_path) == [2, 4, 100_000_000]
    assert (tmp_path / "notes").is_dir(), "only checkpoints may be removed"
    checkpoint.prune(tmp_path, keep_last=1, best_step=None)
    assert checkpoint.steps(tmp_path) == [100_000_000]


def test_damaged_state_is_named(trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = trained
    folder = checkpoint.save(tmp_path, 2, model.save_pretrained, optimizer, {})
    for name in ("optimizer.pt", "trainer_state.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1])
    with pytest.raises(TwistError, match=r"optimizer\.pt is missing or damaged; delete .*00000002"):
        checkpoint.load_optimizer(tmp_path, 2, optimizer)
    with pytest.raises(TwistError, match=r"trainer_state\.json is missing or damaged"):
        checkpoint.load_trainer_state(tmp_path, 2)


def test_optimizer_state_runs_no_code(trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = trained
    folder = checkpoint.save(tmp_path, 2, model.save_pretrained, optimizer, {})
    torch.save({"state": {}, "param_groups": Path}, folder / "optimizer.pt")
    with pytest.raises(TwistError, match="damaged"):
        checkpoint.load_optimizer(tmp_path, 2, optimizer)


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    assert checkpoint.open_folder(str(tmp_path / "a" / "b")).is_dir()
    with pytest.raises(TwistError, match="cannot be written to S3 yet"):
        checkpoint.open_folder("s3://bucket/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(TwistError, match="cannot write checkpoints to"):
        checkpoint.open_folder(str(tmp_path / "file" / "checkpoints"))


def test_best_folder_is_that_of_the_newest_state(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    with pytest.raises(TwistError, match=str(tmp_path)):
        checkpoint.best_folder(str(tmp_path))
    checkpoint.save(tmp_path, 2, model.save_pretrained, optimizer, {"progress": {"best_step": None}})
    assert Path(checkpoint.best_folder(str(tmp_path))).name == "00000002", "without a validation the newest is the best"
    checkpoint.save(tmp_path, 4, model.save_pretrained, optimizer, {"progress": {"best_step": 2}})
    assert Path(checkpoint.best_folder(str(tmp_path))).name == "00000002"
