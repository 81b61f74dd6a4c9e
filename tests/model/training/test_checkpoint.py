from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from model.lm.speech_lm import cold_start, load_speech_lm
from model.lm.vocab import Vocabulary
from model.training import checkpoint, checkpoint_parts, checkpoint_steps, optimizer_state, resumption
from model.training.checkpoint import CHECKSUMS
from model.training.checkpoint_writer import CheckpointWriter
from model.training.distributed import Ranks
from model.training.optim import adamw, set_learning_rate
from pipeline.errors import RunError, TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

OPTIMIZER = "optimizer-00000-of-00001.safetensors"
SMALL = {"ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
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


def save(
    folder: str,
    step: int,
    save_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> str:
    """Saves a checkpoint, as a single process."""
    piece = optimizer_state.piece_of(optimizer, 0, 1)
    placeholder = checkpoint_parts.put_placeholder(folder, step)
    checkpoint_parts.write_part(folder, step, 0, 1, piece, save_model, state)
    return checkpoint_parts.commit(folder, step, [checkpoint_parts.read_part_checksums(folder, step, 0)], placeholder)


def state_of(step: int, **progress: Any) -> dict[str, Any]:
    """The least that a trainer_state.json says."""
    return {"config": {}, "progress": {"step": step, "best_step": None, **progress}}


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    model.eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_loaded_equals_saved(trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = trained
    state = state_of(2, perplexity=1.5)
    save(str(tmp_path), 2, model.save_pretrained, optimizer, state)

    loaded, vocabulary = load_speech_lm(checkpoint_steps.step_folder(str(tmp_path), 2))
    loaded_optimizer = adamw(loaded, (0.9, 0.98), 0.01)
    resumption.load_optimizer(tmp_path / "00000002", loaded_optimizer)
    set_learning_rate(loaded_optimizer, 1e-3)
    assert vocabulary == VOCABULARY
    assert checkpoint_steps.load_trainer_state(str(tmp_path), 2) == state
    for _ in range(2):  # an optimizer that lost its moments or its step count shows in the next updates
        update(model, optimizer)
        update(loaded, loaded_optimizer)
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), f"{name} is updated differently after loading"


def test_half_written_checkpoint_is_no_checkpoint(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained
    save(str(tmp_path), 2, model.save_pretrained, optimizer, {})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for module, name in ((safetensors.torch, "save_file"), (Path, "rename"), (checkpoint_parts, "commit")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, die)
            with pytest.raises(KeyboardInterrupt):
                save(str(tmp_path), 4, model.save_pretrained, optimizer, {})
        assert checkpoint_steps.steps(str(tmp_path)) == [2], "a checkpoint has its name before it is whole"
        checkpoint_steps.remove_unfinished(str(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["00000002"], "what a killed run left half-written stays"
    save(str(tmp_path), 4, model.save_pretrained, optimizer, {})
    assert checkpoint_steps.steps(str(tmp_path)) == [2, 4]


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 100_000_000):
        folder = Path(checkpoint_steps.step_folder(str(tmp_path), step))
        folder.mkdir()
        (folder / CHECKSUMS).write_text("{}\n")
    (tmp_path / "notes").mkdir()
    checkpoint_steps.prune(str(tmp_path), keep_last=2, best_step=2)
    assert checkpoint_steps.steps(str(tmp_path)) == [2, 4, 100_000_000]
    assert (tmp_path / "notes").is_dir(), "only checkpoints may be removed"
    checkpoint_steps.prune(str(tmp_path), keep_last=1, best_step=None)
    assert checkpoint_steps.steps(str(tmp_path)) == [100_000_000]


def test_damaged_state_is_named(trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = trained
    folder = Path(save(str(tmp_path), 2, model.save_pretrained, optimizer, {}))
    for name in (OPTIMIZER, "trainer_state.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1])
    with pytest.raises(TwistError, match=r"optimizer-\*\.safetensors is missing or damaged; delete .*00000002"):
        resumption.load_optimizer(tmp_path / "00000002", optimizer)
    with pytest.raises(TwistError, match=r"trainer_state\.json is missing or damaged"):
        checkpoint_steps.load_trainer_state(str(tmp_path), 2)


def test_state_that_is_not_all_there_is_refused(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    folder = Path(save(str(tmp_path), 2, model.save_pretrained, optimizer, {}))
    (folder / OPTIMIZER).rename(folder / "optimizer-00000-of-00002.safetensors")
    with pytest.raises(TwistError, match="damaged"):
        resumption.load_optimizer(folder, optimizer)
    other = adamw(cold_start({"model_type": "opt", "hidden_size": 16, **SMALL}, VOCABULARY, seed=0), (0.9, 0.98), 0.01)
    (folder / "optimizer-00000-of-00002.safetensors").rename(folder / OPTIMIZER)
    with pytest.raises(TwistError, match="damaged"):
        resumption.load_optimizer(folder, other)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_write_parts_of_one_checkpoint(
    world_size: int, trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(CheckpointWriter(str(tmp_path), rank, world_size, in_background=True))
            for rank in range(world_size)
        ]
        for rank, writer in enumerate(writers):
            assert checkpoint_steps.steps(str(tmp_path)) == [], "it counts before all parts are written"
            piece = optimizer_state.piece_of(optimizer, rank, world_size)
            save_model = model.save_pretrained if rank == 0 else None
            state = state_of(2) if rank == 0 else None
            writer.save(2, piece, save_model, state, keep_last=1, best_step=None)
    assert writers[0].made() == [2]
    folder = tmp_path / "00000002"
    assert checkpoint.damaged_files(str(folder)) == []
    assert {path.name for path in folder.iterdir()} == {CHECKSUMS, *json.loads((folder / CHECKSUMS).read_text())}
    again = adamw(model, (0.9, 0.98), 0.01)
    resumption.load_optimizer(folder, again)
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(again.state[parameter][name], value), f"{name} is not what it was"


def test_a_process_that_dies_leaves_no_checkpoint_and_nobody_waiting(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    with (
        pytest.raises(KeyboardInterrupt),
        CheckpointWriter(str(tmp_path), 0, world_size=2, in_background=True) as writer,
    ):
        piece = optimizer_state.piece_of(optimizer, 0, 2)
        writer.save(2, piece, model.save_pretrained, {}, keep_last=1, best_step=None)
        raise KeyboardInterrupt  # while the other process's part is still missing
    assert checkpoint_steps.steps(str(tmp_path)) == []


def test_failure_in_the_background_is_told(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    _, optimizer = trained

    def fail(_: Path) -> None:
        raise OSError("disk full")

    with CheckpointWriter(str(tmp_path), 0, 1, in_background=True) as writer:
        writer.save(2, optimizer_state.piece_of(optimizer, 0, 1), fail, {}, keep_last=1, best_step=None)
        with pytest.raises(RunError, match=r"cannot write the checkpoint .*00000002: disk full"):
            writer.wait()
    assert list(tmp_path.iterdir()) == [], "half a checkpoint is left behind"


def test_checkpoints_on_s3(trained: tuple[PreTrainedModel, torch.optim.Optimizer], faulty_bucket: str) -> None:
    """Complete checkpoints count, incomplete ones do not."""
    model, optimizer = trained
    folder = f"{faulty_bucket}/run/checkpoints"
    assert checkpoint_steps.steps(checkpoint_steps.open_folder(folder)) == []
    for step in (2, 4, 6):
        save(folder, step, model.save_pretrained, optimizer, state_of(step, best_step=2))
    # As left by a run that was killed while saving.
    checkpoint_parts.put_placeholder(folder, 8)
    checkpoint_parts.write_part(folder, 8, 0, 2, optimizer_state.piece_of(optimizer, 0, 2), model.save_pretrained, {})
    assert checkpoint_steps.steps(folder) == [2, 4, 6]
    checkpoint_steps.remove_unfinished(folder)
    assert not [name for name in storage.list_files(folder) if name.startswith("00000008")]
    checkpoint_steps.prune(folder, keep_last=1, best_step=2)
    assert checkpoint_steps.steps(folder) == [2, 6]
    assert checkpoint_steps.best_folder(folder) == f"{folder}/00000002"
    local = checkpoint.fetch(f"{folder}/00000006")
    assert checkpoint.damaged_files(str(local)) == [OPTIMIZER], "what only a training needs is not fetched"
    assert resumption.fetch_to_resume(folder, 6, Ranks()) == local
    assert checkpoint.damaged_files(str(local)) == []
    assert load_speech_lm(str(local))[1] == VOCABULARY
    resumption.load_optimizer(local, optimizer)


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    assert Path(checkpoint_steps.open_folder(str(tmp_path / "a" / "b"))).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(TwistError, match="cannot write checkpoints to"):
        checkpoint_steps.open_folder(str(tmp_path / "file" / "checkpoints"))


def test_best_folder_is_that_of_the_newest_state(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    with pytest.raises(TwistError, match=str(tmp_path)):
        checkpoint_steps.best_folder(str(tmp_path))
    save(str(tmp_path), 2, model.save_pretrained, optimizer, state_of(2))
    assert Path(checkpoint_steps.best_folder(str(tmp_path))).name == "00000002", "not validated, so the newest is best"
    save(str(tmp_path), 4, model.save_pretrained, optimizer, state_of(4, best_step=2))
    assert Path(checkpoint_steps.best_folder(str(tmp_path))).name == "00000002"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer_state.json"])
def test_no_use_of_a_model_of_which_a_bit_was_flipped(
    name: str, trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    folder = Path(save(str(tmp_path), 2, model.save_pretrained, optimizer, state_of(2)))
    assert checkpoint.fetch(str(folder)) == folder
    flip(folder / name, 8 * (folder / name).stat().st_size - 17)
    with pytest.raises(TwistError, match=rf"00000002 is damaged \({name}\)"):
        checkpoint.fetch(str(folder))


def test_a_flipped_bit_anywhere_in_the_list_is_found(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    folder = Path(save(str(tmp_path), 2, model.save_pretrained, optimizer, state_of(2)))
    for bit in range(0, 8 * (folder / CHECKSUMS).stat().st_size, 7):
        flip(folder / CHECKSUMS, bit)
        assert checkpoint.damaged_files(str(folder)), f"bit {bit} of the list went unnoticed"
        flip(folder / CHECKSUMS, bit)
    assert checkpoint.damaged_files(str(folder)) == []


def test_a_copy_from_s3_is_held_to_the_list(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], faulty_bucket: str
) -> None:
    model, optimizer = trained
    folder = f"{faulty_bucket}/checkpoints"
    uri = save(folder, 2, model.save_pretrained, optimizer, state_of(2))
    whole = storage.read_bytes(f"{uri}/model.safetensors")
    storage.write_bytes(f"{uri}/model.safetensors", whole[:-1] + bytes([whole[-1] ^ 1]))  # S3's own checksum fits it
    with pytest.raises(TwistError, match=r"00000002 is damaged \(model.safetensors\)"):
        checkpoint.fetch(uri)
    storage.write_bytes(f"{uri}/model.safetensors", whole)
    assert (checkpoint.fetch(uri) / "model.safetensors").read_bytes() == whole


class OnAnotherMachine(Ranks):
    """A process that sees nothing of what others find in their machines' copies."""

    def all_or_none(self, do: Callable[[], Any]) -> Any:
        return do()


def test_a_copy_that_was_damaged_on_this_machine_is_fetched_again(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], faulty_bucket: str
) -> None:
    """Nobody is told to delete the good one on S3."""
    model, optimizer = trained
    folder = f"{faulty_bucket}/checkpoints"
    uri = save(folder, 2, model.save_pretrained, optimizer, state_of(2))
    for name in ("model.safetensors", OPTIMIZER, CHECKSUMS):
        flip(resumption.fetch_to_resume(folder, 2, Ranks()) / name, 8 * 40)
        assert checkpoint.damaged_files(str(resumption.fetch_to_resume(folder, 2, Ranks()))) == []
    assert checkpoint.damaged_files(uri) == []
    whole = storage.read_bytes(f"{uri}/{OPTIMIZER}")
    storage.write_bytes(f"{uri}/{OPTIMIZER}", whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TwistError, match=rf"00000002 is damaged \({OPTIMIZER}\)"):
        resumption.fetch_to_resume(folder, 2, OnAnotherMachine(1, 2))
    assert checkpoint.damaged_files(uri) == [OPTIMIZER]


def test_a_step_without_its_list_is_no_checkpoint(
    trained: tuple[PreTrainedModel, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = trained
    for step in (2, 4):
        folder = Path(save(str(tmp_path), step, model.save_pretrained, optimizer, state_of(step)))
    (folder / CHECKSUMS).unlink()
    (tmp_path / "metrics.jsonl").touch()
    assert checkpoint_steps.steps(str(tmp_path)) == [2]
    for use in (lambda: checkpoint.fetch(str(folder)), lambda: checkpoint_steps.newest_step(str(tmp_path), Ranks())):
        with pytest.raises(TwistError, match=r"00000004 is no checkpoint, for its checksums.json is missing"):
            use()
    elsewhere = folder.rename(tmp_path / "my-lm")
    assert checkpoint.fetch(str(elsewhere)) == elsewhere, "a model from elsewhere has no list"


def test_a_state_that_says_too_little_or_another_step_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "00000004"
    folder.mkdir()
    for text in ("{}", "[]", '{"config": {}, "progress": 4}', "[" * 200_000):
        (folder / "trainer_state.json").write_text(text)
        with pytest.raises(TwistError, match=r"trainer_state\.json is missing or damaged"):
            checkpoint_steps.load_trainer_state(str(tmp_path), 4)
    (folder / "trainer_state.json").write_text(json.dumps(state_of(2)))
    with pytest.raises(TwistError, match=r"is that of step 2"):
        checkpoint_steps.load_trainer_state(str(tmp_path), 4)
