"""Fetching official files from a local server: whole, wrong, cut short, unreachable, there already."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model import artefacts
from model.artefacts import EMBEDDED_FOLDER, identity
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.official_files import ARTEFACTS, Artefact
from model.vocoder.checkpoint import load_vocoder
from pipeline.errors import RunError, TwistError
from pipeline.files.machine_cache import cache_folder
from pipeline.units import codebook

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/gone.bin":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/no-length.bin":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_500_000] if self.path == "/cut.bin" else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    paths: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def artefact_at(url: str, content: bytes | None = CONTENT) -> Artefact:
    return Artefact("a file", url, None if content is None else hashlib.sha256(content).hexdigest())


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("name", ["whole.bin", "no-length.bin"])
def test_a_file_is_fetched_once(server: Server, cache: Path, name: str) -> None:
    artefact = artefact_at(f"{server.url}/{name}")
    path = artefacts.fetch(artefact)
    assert path == cache / name
    assert path.read_bytes() == CONTENT
    assert artefacts.fetch(artefact) == path
    assert server.paths == [f"/{name}"], "it was there already"
    assert files_in(cache) == [name]
    assert path.stat().st_mode & 0o444 == 0o444, "others who share the cache cannot read it"


def test_a_file_with_another_checksum_is_not_kept(server: Server, cache: Path) -> None:
    message = re.escape(f"does not match the known hash: expected {hashlib.sha256().hexdigest()} but got {SHA256}")
    with pytest.raises(RunError, match=message):
        artefacts.fetch(artefact_at(f"{server.url}/whole.bin", b""))
    assert files_in(cache) == []


def test_a_connection_that_breaks_off_leaves_nothing(server: Server, cache: Path) -> None:
    for checked in (CONTENT, None):
        with pytest.raises(RunError, match=r"cannot fetch .*cut\.bin; .*1500000 more expected"):
            artefacts.fetch(artefact_at(f"{server.url}/cut.bin", checked))
    assert files_in(cache) == []


def test_a_file_that_is_gone_says_so(server: Server, cache: Path) -> None:
    with pytest.raises(RunError, match=r"cannot fetch .*gone\.bin; .*404 Client Error: Not Found"):
        artefacts.fetch(artefact_at(f"{server.url}/gone.bin"))
    assert files_in(cache) == []


@pytest.mark.usefixtures("server")
def test_without_a_network_it_says_where_to_put_the_file(cache: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/hubert.pt"
    place = re.escape(f"put it at {cache / 'hubert.pt'} (or in another folder that TWIST_CACHE names)")
    with pytest.raises(RunError, match=f"cannot fetch {url}; .*{place}.*refused"):
        artefacts.fetch(artefact_at(url))
    (cache / "hubert.pt").write_bytes(CONTENT)
    assert artefacts.fetch(artefact_at(url)) == cache / "hubert.pt", "it was put there by hand"


@pytest.mark.usefixtures("cache")
def test_a_file_in_the_cache_is_checked_each_time(server: Server) -> None:
    artefact = artefact_at(f"{server.url}/whole.bin")
    path = artefacts.fetch(artefact)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(TwistError, match=r"whole\.bin is not the file that was published: .*; delete it"):
        artefacts.fetch(artefact)


@pytest.mark.usefixtures("cache")
def test_a_file_without_a_published_checksum_says_so(server: Server) -> None:
    with pytest.warns(UserWarning, match=f"no checksum is published .* its sha256 is {SHA256}"):
        path = artefacts.fetch(artefact_at(f"{server.url}/whole.bin", None))
    assert path.read_bytes() == CONTENT


def test_several_who_want_the_same_file_fetch_it_once(server: Server, cache: Path) -> None:
    artefact = artefact_at(f"{server.url}/whole.bin")
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(artefacts.fetch, [artefact] * 4))
    assert paths == [cache / "whole.bin"] * 4
    assert server.paths == ["/whole.bin"]


def test_a_cache_that_cannot_be_written_is_an_error(server: Server, cache: Path) -> None:
    cache.write_text("a file, and no folder")
    with pytest.raises(RunError, match=r"cannot write to .*cache.*; set TWIST_CACHE"):
        artefacts.fetch(artefact_at(f"{server.url}/whole.bin"))


def test_the_cache_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIST_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/twist"


def zip_at(cache: Path, members: dict[str, bytes]) -> Artefact:
    cache.mkdir(exist_ok=True)
    with zipfile.ZipFile(cache / "LM.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Artefact("a model", "http://127.0.0.1:1/LM.zip", None)


@pytest.mark.parametrize("inside", ["", "LM/", "lms/LM/"])
def test_a_zip_of_a_model_is_unpacked_once(cache: Path, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = zip_at(cache, {f"{inside}config.json": b"{}", f"{inside}weights.bin": CONTENT, "README": b"x"})
    folder = artefacts.unpack(artefact)
    assert folder == cache / "LM"
    expected = {"config.json", "weights.bin"} | ({"README"} if inside == "" else set())
    assert {path.name for path in folder.iterdir()} == expected
    assert (folder / "weights.bin").read_bytes() == CONTENT
    assert folder.stat().st_mode & 0o555 == 0o555, "others who share the cache cannot read it"
    (cache / "LM.zip").unlink()
    monkeypatch.setitem(ARTEFACTS, "twist-350m", artefact)
    assert artefacts.resolve("twist-350m") == str(folder), "the zip is no longer needed"


def test_a_zip_leaves_its_folder_alone(cache: Path, tmp_path: Path) -> None:
    members = {"LM/config.json": b"{}", "LM/../../escaped": b"x", "/etc/escaped": b"x", "LM/sub/other.json": b"x"}
    folder = artefacts.unpack(zip_at(cache, members))
    assert {path.name for path in folder.iterdir()} == {"config.json"}
    assert not list(tmp_path.rglob("escaped"))


def test_a_zip_that_is_damaged_or_holds_no_model_is_refused(cache: Path) -> None:
    for members, words in (({"README": b"x"}, "holds 0"), ({"a/config.json": b"", "b/config.json": b""}, "holds 2")):
        with pytest.raises(TwistError, match=words):
            artefacts.unpack(zip_at(cache, members))
    artefact = zip_at(cache, {"config.json": b"{}", "weights.bin": CONTENT})
    content = bytearray((cache / "LM.zip").read_bytes())
    content[1_500_000] ^= 1
    for damaged in (bytes(content), b"no zip"):
        (cache / "LM.zip").write_bytes(damaged)
        with pytest.raises(TwistError, match=r"cannot be unpacked .*; delete it and fetch it again"):
            artefacts.unpack(artefact)
    assert files_in(cache) == ["LM.zip"], "nothing half-unpacked is left"


def test_names_stand_for_files_and_anything_else_for_itself(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "file.bin").write_bytes(CONTENT)
    monkeypatch.setitem(ARTEFACTS, "mhubert-base-25hz", artefact_at("http://127.0.0.1:1/file.bin"))
    assert artefacts.resolve("mhubert-base-25hz") == str(cache / "file.bin")
    for path in ("./mhubert-base-25hz", "models/hubert", "/a/b.pt", "s3://bucket/km.bin"):
        assert artefacts.resolve(path) == path
    with pytest.raises(TwistError, match=r"file\.bin cannot be read as tensors"):
        load_encoder(EncoderConfig("hubert", "mhubert-base-25hz"))


def test_the_embedded_tokenizer_fits_together() -> None:
    encoder = load_encoder(EncoderConfig("hubert", "hubert-tiny-25hz", layer=3, device="cpu"))
    book = codebook.load(artefacts.resolve("hubert-tiny-25hz-km100"))
    assert book.facts["encoder"]["fingerprint"] == encoder.fingerprint, "the codebook was fitted on other features"
    assert (book.codebook_size, encoder.feature_dim, encoder.hop_samples) == (100, 256, 640)
    for name in artefacts.EMBEDDED:
        num_bytes = sum(path.stat().st_size for path in (artefacts.EMBEDDED_FOLDER / name).iterdir())
        assert num_bytes < 10e6, f"{name} is too much for every checkout"


def test_the_embedded_vocoder_speaks_the_embedded_units() -> None:
    book = codebook.load(artefacts.resolve("hubert-tiny-25hz-km100"))
    vocoder, fingerprint = load_vocoder(Path(artefacts.resolve("hifigan-tiny-25hz")))
    assert fingerprint == book.fingerprint
    assert (vocoder.config.num_embeddings, vocoder.config.hop_samples) == (100, 640)


def test_the_official_files_are_well_described() -> None:
    places = [artefact.cached_as for artefact in ARTEFACTS.values()]
    assert len(set(places)) == len(places), "two files would share a place in the cache"
    for name, artefact in ARTEFACTS.items():
        assert artefact.url.startswith("https://dl.fbaipublicfiles.com/"), name
        assert artefact.sha256 is None or re.fullmatch("[0-9a-f]{64}", artefact.sha256), name
        assert (artefact.sha256 is None) == artefact.file_name.endswith(".zip"), name
        assert all(other in ARTEFACTS for other in artefact.beside), name


def test_a_model_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    models = [tmp_path / "one" / "hubert", tmp_path / "two" / "moved"]
    for model in models:
        shutil.copytree(EMBEDDED_FOLDER / "hubert-tiny-25hz", model)
    (models[1] / "README.md").write_text("what it is")
    assert identity(str(models[0])) == identity(str(models[1]))
    assert identity("hubert-tiny-25hz") == "hubert-tiny-25hz", "nothing is read, or downloaded, to know which it is"
    (models[1] / "config.json").write_text("{}")
    assert identity(str(models[0])) != identity(str(models[1]))
    for number, content in enumerate((b"a", b"a", b"b")):
        (tmp_path / f"{number}.pt").write_bytes(content)
    first, same, other = (identity(str(tmp_path / f"{number}.pt")) for number in range(3))
    assert first == same != other


def test_what_belongs_to_a_file_is_fetched_with_it(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Artefact("its config", f"{server.url}/config.json", SHA256, folder="voice")
    monkeypatch.setitem(ARTEFACTS, "voice-config", beside)
    voice = Artefact("a voice", f"{server.url}/generator.pt", SHA256, folder="voice", beside=("voice-config",))
    monkeypatch.setitem(ARTEFACTS, "voice", voice)
    assert artefacts.resolve("voice") == str(cache / "voice/generator.pt")
    assert {path.name for path in (cache / "voice").iterdir() if not path.name.startswith(".")} == {
        "generator.pt",
        "config.json",
    }
