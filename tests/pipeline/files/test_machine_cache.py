"""Models on S3, copied once a machine: whole or not at all, by however many processes at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from pipeline.errors import RunError, TwistError
from pipeline.files import cache_bound, machine_cache, s3
from pipeline.files.checksums import sha256_of
from pipeline.files.machine_cache import copy_of
from tests.s3_servers import FaultyProxy, moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG, WEIGHTS = b"{}", os.urandom(3_000_000)
MODEL = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "empty.txt": b""}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A store without faults that holds a model's folder and a model's file; `asked` are the keys read."""
    with moto() as endpoint, FaultyProxy(endpoint, seed=1, share_of_faults=0.0).running() as proxy:
        point_clients_at(endpoint, monkeypatch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        for key, content in {
            "hubert/config.json": CONFIG,
            "hubert/model.safetensors": WEIGHTS,
            "hubert/empty.txt": b"",
            "hubert/logs/events": b"of no use",
            "hubert-large/config.json": b"another",
            "voices/g.pt": WEIGHTS,
            "voices/g_config.json": CONFIG,
        }.items():
            client.put_object(Bucket="models", Key=key, Body=content)
        point_clients_at(proxy.url, monkeypatch)
        proxy.refusal = lambda method, path: asked.append(path.partition("?")[0]) if method == "GET" else None
        asked: list[str] = proxy.met
        yield proxy
        s3.client_of_process.cache_clear()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(key: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket="models", Key=key, Body=content)


def test_a_folder_is_copied_once_with_the_files_directly_in_it(cache: Path, proxy: FaultyProxy) -> None:
    copy = copy_of("s3://models/hubert")
    assert copy.name == "hubert", "messages and loaders show or use the name"
    assert contents(copy) == MODEL
    proxy.met.clear()
    assert copy_of("s3://models/hubert") == copy_of("s3://models/hubert/") == copy
    assert set(proxy.met) == {"/models"}, "only the folder is listed again"
    assert cache in copy.parents


@pytest.mark.usefixtures("cache", "proxy")
def test_a_file_comes_with_what_belongs_beside_it() -> None:
    assert contents(copy_of("s3://models/voices/g.pt").parent) == {"g.pt": WEIGHTS}
    copy = copy_of("s3://models/voices/g.pt", beside=("g_config.json", "config.json"))
    assert contents(copy.parent) == {"g.pt": WEIGHTS, "g_config.json": CONFIG}


@pytest.mark.usefixtures("cache", "proxy")
def test_what_has_changed_is_fetched_anew_and_what_is_in_use_stays() -> None:
    before = copy_of("s3://models/hubert")
    put("hubert/model.safetensors", WEIGHTS[::-1])  # of the same size
    after = copy_of("s3://models/hubert")
    assert (after / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert (before / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("cache", "proxy")
@pytest.mark.parametrize("uri", ["s3://models/hubert", "s3://models/voices/g.pt"])
def test_a_copy_that_was_damaged_is_fetched_anew(uri: str) -> None:
    before = contents(copy_of(uri).parent)
    for path in [*copy_of(uri).parent.rglob("*.safetensors"), *copy_of(uri).parent.rglob("*.pt")]:
        path.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    assert contents(copy_of(uri).parent) == before
    list_file = copy_of(uri).parent.with_name(f"{copy_of(uri).parent.name}.json")
    list_file.write_text("{")
    assert contents(copy_of(uri).parent) == before


@pytest.mark.usefixtures("proxy")
def test_a_copy_that_breaks_off_is_never_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = s3.download

    def fail_at_weights(uri: str, found: s3.Found, path: Path) -> None:
        whole(uri, found, path)
        if uri.endswith(".safetensors"):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(s3, "download", fail_at_weights)
        with pytest.raises(RunError, match=rf"cannot fetch s3://models/hubert into {cache} of {socket.gethostname()}"):
            copy_of("s3://models/hubert")
    assert not [name for name in contents(cache) if name.endswith((".safetensors", ".part"))]
    # As left by a process that was killed: SIGKILL runs no clean-up.
    (used,) = (cache / "s3").glob(".*.used")
    used.with_suffix(".part").write_bytes(WEIGHTS[:1000])
    assert contents(copy_of("s3://models/hubert")) == MODEL
    assert not [name for name in contents(cache) if name.endswith(".part")]


@pytest.mark.usefixtures("cache", "proxy")
def test_a_file_that_changes_while_it_is_fetched_is_not_mixed_with_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 1_000_000)
    get = s3._get

    def get_and_change(uri: str, **options: str) -> bytes:
        data = get(uri, **options)
        if options.get("Range") == "bytes=0-999999":
            put("hubert/model.safetensors", WEIGHTS[::-1])
        return data

    monkeypatch.setattr(s3, "_get", get_and_change)
    with pytest.raises(RunError, match="Precondition"):
        copy_of("s3://models/hubert")


def _copy(barrier: object) -> bytes:
    s3.client_of_process.cache_clear()
    barrier.wait()  # type: ignore[attr-defined]
    return (copy_of("s3://models/hubert") / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("cache")
def test_of_many_processes_one_fetches(proxy: FaultyProxy) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        assert pool.map(_copy, [manager.Barrier(4)] * 4, chunksize=1) == [WEIGHTS] * 4
    assert proxy.met.count("/models/hubert/model.safetensors") == 1


def _check(barrier: object) -> int:
    """How many files this process had to read to hold a copy to its list."""
    s3.client_of_process.cache_clear()
    read: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_cache, "sha256_of", lambda path: read.append(path) or sha256_of(path))
        barrier.wait()  # type: ignore[attr-defined]
        copy_of("s3://models/hubert")
    return len(read)


@pytest.mark.usefixtures("cache", "proxy")
def test_of_many_processes_one_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(machine_cache, "_boot_id", lambda: "before this machine was started anew")
        copy_of("s3://models/hubert")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        assert sorted(pool.map(_check, [manager.Barrier(4)] * 4, chunksize=1)) == [0, 0, 0, 3]
        monkeypatch.setattr(machine_cache, "CHECK_LASTS_S", 0.0)
    assert _check(threading.Barrier(1)) == 3, "its word does not last"


@pytest.mark.usefixtures("cache")
def test_what_is_not_wanted_is_not_fetched(proxy: FaultyProxy) -> None:
    copy = copy_of("s3://models/hubert", leave_out="model")
    assert contents(copy) == {"config.json": CONFIG, "empty.txt": b""}
    assert not [path for path in proxy.met if path.endswith(".safetensors")]
    assert copy_of("s3://models/hubert") == copy, "who wants the rest adds to the same copy"
    assert contents(copy) == MODEL
    assert proxy.met.count("/models/hubert/config.json") == 1


def _use(uris: list[str]) -> list[str]:
    s3.client_of_process.cache_clear()
    return [str(copy_of(uri)) for uri in uris]


def _use_and_hold(uris: list[str], is_used: object, is_over: object) -> None:
    _use(uris)
    is_used.set()  # type: ignore[attr-defined]
    is_over.wait()  # type: ignore[attr-defined]


LARGE, VOICE, CHANGED = "s3://models/hubert", "s3://models/voices/g.pt", "s3://models/changed.pt"


@pytest.mark.usefixtures("proxy")
def test_what_was_used_least_recently_goes_unless_it_is_in_use(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies of 3 MB where there is room for two."""
    put("changed.pt", WEIGHTS[::-1])
    monkeypatch.setenv(cache_bound.BOUND_VARIABLE, "0.0065")
    context = multiprocessing.get_context("spawn")

    def alone(*uris: str) -> list[Path]:
        with context.Pool(1) as pool:
            return [Path(path) for path in pool.apply(_use, (list(uris),))]

    large, voice, _ = alone(LARGE, VOICE, LARGE)
    assert large.exists() and voice.exists()
    (changed,) = alone(CHANGED)
    assert large.exists() and changed.exists() and not voice.exists()
    assert not voice.parent.with_name(f"{voice.parent.name}.json").exists()

    is_used, is_over = context.Event(), context.Event()
    user = context.Process(target=_use_and_hold, args=([LARGE], is_used, is_over))
    user.start()
    is_used.wait()
    alone(CHANGED)  # so that the one in use was used before
    alone(VOICE)
    assert contents(large) == MODEL, "a copy in use was removed"
    assert voice.exists() and not changed.exists()
    is_over.set()
    user.join()
    monkeypatch.setenv(cache_bound.BOUND_VARIABLE, "0")
    alone(CHANGED)
    assert contents(cache / "s3" / changed.parent.name) == {"changed.pt": WEIGHTS[::-1]}
    assert not large.exists() and not voice.exists()
    monkeypatch.setenv(cache_bound.BOUND_VARIABLE, "much")
    with pytest.raises(TwistError, match="TWIST_CACHE_GB is 'much'; give the gigabytes"):
        copy_of(LARGE)


def _fetch_by_turns(seed: int) -> bool:
    """Whether each of many copies was whole as long as this process used it."""
    s3.client_of_process.cache_clear()
    generator = random.Random(seed)
    for _ in range(12):
        uri = f"s3://models/many/{generator.randrange(6)}.pt"
        is_whole = copy_of(uri).read_bytes() == uri.encode() * 10_000
        for lock in machine_cache._used.values():  # as when the process ends
            os.close(lock)
        machine_cache._used.clear()
        if not is_whole:
            return False
    return True


@pytest.mark.usefixtures("proxy")
def test_processes_that_remove_and_fetch_at_once_do_no_harm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        put(f"many/{number}.pt", f"s3://models/many/{number}.pt".encode() * 10_000)
    monkeypatch.setenv(cache_bound.BOUND_VARIABLE, "0.0005")  # two of six
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert all(pool.map(_fetch_by_turns, range(4), chunksize=1))
    assert len(list(cache.rglob("*.pt"))) <= 2 + 4


@pytest.mark.usefixtures("cache", "proxy")
def test_what_is_not_there_is_the_users_mistake() -> None:
    for uri in ("s3://models/hubrt", "s3://nowhere/hubert"):
        with pytest.raises(TwistError, match=f"there is neither a file nor a folder {uri}"):
            copy_of(uri)


@pytest.mark.usefixtures("cache")
def test_a_store_that_refuses_or_is_gone_is_not(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 0.0)
    monkeypatch.setattr(s3, "DENIED_PATIENCE_S", 0.0)
    proxy.refusal = lambda *_: (403, "AccessDenied")
    with pytest.raises(RunError, match=r"cannot fetch s3://models/hubert .*denied.*Give this machine access"):
        copy_of("s3://models/hubert")
    proxy.is_down = True
    with pytest.raises(RunError, match="cannot fetch s3://models/hubert"):
        copy_of("s3://models/hubert")


@pytest.mark.usefixtures("proxy")
def test_a_cache_that_cannot_be_written_names_the_setting(cache: Path) -> None:
    cache.write_text("a file, and no folder")
    with pytest.raises(RunError, match=r"cannot fetch .*another folder: TWIST_CACHE"):
        copy_of("s3://models/hubert")
