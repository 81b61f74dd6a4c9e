"""Reading files of torch.save: every kind of tensor as torch.load gives it, and hostile references to storages."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from model.torch_file import TorchFile, mapping
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from pathlib import Path

LEGACY = pytest.mark.parametrize("legacy", [False, True])
SHARED = torch.arange(24.0)
TENSORS = {
    **{str(dtype): torch.arange(6).to(dtype).view(2, 3) for dtype in (torch.float64, torch.float32, torch.float16)},
    **{str(dtype): torch.arange(6).to(dtype) for dtype in (torch.bfloat16, torch.int64, torch.int32, torch.int16)},
    **{str(dtype): torch.arange(6).to(dtype) for dtype in (torch.int8, torch.uint8, torch.bool)},
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "view": SHARED[4:16].view(3, 4),
    "transposed": SHARED.view(4, 6).T,
    "every other": SHARED[::2],
}


def write(path: Path, content: Any, legacy: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@LEGACY
def test_tensors_are_those_that_torch_reads(tmp_path: Path, legacy: bool) -> None:
    path = write(tmp_path / "tensors.pt", TENSORS, legacy)
    expected = torch.load(path, weights_only=True)
    with TorchFile(path) as file:
        assert list(file.content) == list(TENSORS)
        for name, recorded in file.content.items():
            tensor = file.tensor(recorded)
            assert tensor.dtype == expected[name].dtype, name
            assert tensor.shape == expected[name].shape, name
            assert torch.equal(tensor, expected[name]), name


@LEGACY
def test_a_state_dict_is_a_mapping(tmp_path: Path, legacy: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with TorchFile(write(tmp_path / "module.pt", module.state_dict(), legacy)) as file:
        weights = {name: file.tensor(recorded) for name, recorded in mapping(file.content).items()}
    assert weights.keys() == module.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())


@LEGACY
def test_plain_values_stand_beside_tensors(tmp_path: Path, legacy: bool) -> None:
    content = {"step": 3, "lr": [0.1], "name": "x", "none": None, "weight": torch.ones(2)}
    with TorchFile(write(tmp_path / "mixed.pt", content, legacy)) as file:
        assert {name: value for name, value in file.content.items() if name != "weight"} == {
            "step": 3,
            "lr": [0.1],
            "name": "x",
            "none": None,
        }
        with pytest.raises(TwistError, match=r"mixed\.pt cannot be read as tensors \(it holds a int in place of"):
            file.tensor(file.content["step"])


@LEGACY
def test_a_whole_module_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = write(tmp_path / "module.pt", torch.nn.Linear(2, 3), legacy)
    with pytest.raises(TwistError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        TorchFile(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"}.")
        archive.writestr("script/constants.pkl", b").")
    with pytest.raises(TwistError, match="it is a TorchScript program"):
        TorchFile(tmp_path / "script.pt")


def test_a_packed_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"}." + bytes(10_000))
    with pytest.raises(TwistError, match="is compressed"):
        TorchFile(tmp_path / "bomb.pt")


@pytest.mark.parametrize("member", ["data.pkl", "a/b/data.pkl", "readme"])
def test_a_zip_of_something_else_is_refused(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr(member, b"}.")
    with pytest.raises(TwistError, match=r"has no data\.pkl of torch\.save"):
        TorchFile(tmp_path / "other.pt")


class Reference:
    """A tensor by hand: any offset, shape and stride into a storage."""

    def __init__(self, storage: Any, *place: Any) -> None:
        self.call = (storage, *place, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.call


@LEGACY
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "place",
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2,), (9,)),
        (0, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (2**62, 2**62), (0, 0)),
    ],
    ids=str,
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, place: tuple[Any, ...], legacy: bool) -> None:
    storage = torch.storage.TypedStorage(wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32)
    path = write(tmp_path / "outside.pt", {"weight": Reference(storage, *place)}, legacy)
    with TorchFile(path) as file, pytest.raises(TwistError, match=r"outside\.pt cannot be read as tensors"):
        file.tensor(file.content["weight"])
