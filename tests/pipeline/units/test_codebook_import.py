"""Codebooks from other people's files: their data is read, their code is not run."""

from __future__ import annotations

import base64
import gzip
import os
import pickle
import sys
import types
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.units import codebook, codebook_import
from pipeline.units.codebook import CodebookError
from pipeline.units.codebook_import import read_centroids

if TYPE_CHECKING:
    from pathlib import Path

# A MiniBatchKMeans of scikit-learn 1.9.1 with 4 units of 3 dimensions, as joblib 1.6.0 dumps it; zlib.
KMEANS = zlib.decompress(
    base64.b85decode(
        b"c-n1~J#5oJ6vv&9HfdV5p%fS*Kzvn2ZH<a5B&3o+ixdf~8Ccrwbat+sseQJ5=eB7<6p27VH^D_9n7S|`7(gu036K~VS(upE*kE8O"
        b"&rZ@5l_%LcKfmYqd;j;mo^I$#EjD?GFFFJVOt+kn3livP(IuF1B?o40W=~^bQDZjtJW{7`tD9;><``;4b7iDu8sdbKJ&WUU=IE%B"
        b"Sr@M$8v>M3l_}vls;sq4b~6+w7)hB~B7x~~q6|&;1(;Pm7jc0_>==x`!8~NUe&8(;moUi5$($J>A#Sfi)R64AJl78eK@K*F!_|iD"
        b"iN4-^Uy*|W!JOOISd@+eENoAeOLtbkmtPF6$$o|w2o_;LI4~h)q+}XJv`{{SI-I@e-=aCxsbNgPBSV5hr7DlRLY5aY0TS-N?wO8l"
        b">MV5q8uD!mv{rIoC3?IR1h_UAVBZIocBIYn(6k&tR<bM3QZmD;IEsZJ*~KaLp=P=cXD_His!YtlxhiVlr$^f-h)pg`s{0%F)KxVC"
        b"eI=$;rBb=F4Hn-FO(;|5u;X~k$aS#~$`zWNaW#aUwrXZg5NIqPn%&#6Y1-RqO?wX4ff-GEGTnIAo^2l@%NWEVfv_<M{c}G1?!^3M"
        b"ncwY4uFc@xkK(JZ_|G{x@Sh<c1Vy>ctZ1wp=GGcwq<y}%ddPxU*g&Lcp(!3cLXXkoM%qZ-RrDl1MThAq)i>yw2)%c^V;_Hyl?p2l"
        b"OSz>_#W$0~rM|-4R{huG(%SguR{zVn3*YMF#m)7@#RsqH`&%ELZZ&SS`vca_#(1HK);|lVg7^RebQu<}J)AQ#(_G0tfT?;LZ$u{T"
        b"T|=T{dq=d>K(51|0F*=vsd2W=mTk+c$`@xpe~Ep0)cU;<{At|w7_7>KeqNtYp{f4`l~I&8"
    )
)
CENTROIDS = np.array(
    [
        [0.6756404638290405, 1.1442903280258179, 0.3895724415779114],
        [0.6492418050765991, -0.8402564525604248, 1.1871801614761353],
        [-1.2592004537582397, 0.05265813320875168, 0.16945593059062958],
        [0.1538109928369522, -0.22725501656532288, -1.209152102470398],
    ],
    np.float32,
)
ENCODER = {"name": "mfcc", "feature_dim": 3, "fingerprint": "encoder-1"}


def npy(path: Path, array: Any) -> bytes:
    np.save(path, array)
    return path.read_bytes()


@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress], ids=["plain", "zlib", "gzip"])
def test_kmeans_of_joblib(pack: Any) -> None:
    centroids = read_centroids(pack(KMEANS), "km.bin")
    assert centroids.dtype == np.float32
    assert np.array_equal(centroids, CENTROIDS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npy_in_any_precision(tmp_path: Path, dtype: Any) -> None:
    centroids = read_centroids(npy(tmp_path / "km.npy", CENTROIDS.astype(dtype)), "km.npy")
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(centroids, CENTROIDS, rtol=1e-3)


def test_npy_in_fortran_order(tmp_path: Path) -> None:
    centroids = read_centroids(npy(tmp_path / "km.npy", np.asfortranarray(CENTROIDS)), "km.npy")
    assert np.array_equal(centroids, CENTROIDS)
    assert centroids.flags.c_contiguous


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "zlib"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, protocol: int, pack: Any) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(CodebookError, match=r"km\.bin cannot be read .*names (posix|nt|os)\.system"):
        read_centroids(pack(pickle.dumps({"cluster_centers_": Runs(marker)}, protocol)), "km.bin")
    assert not marker.exists(), "reading ran code from the file"


@pytest.mark.parametrize(
    "name", ["builtins eval", "numpy.testing runstring", "sklearn.utils x", "joblib.parallel Parallel"]
)
def test_even_what_may_occur_is_not_called(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    module, function = name.split()
    call = f"c{module}\n{function}\n(Vopen({str(marker)!r}, 'w')\n(dtR."
    with pytest.raises(CodebookError, match=r"km\.bin cannot be read"):
        read_centroids(call.encode(), "km.bin")
    assert not marker.exists(), "reading ran code from the file"


class FittedKMeans:
    """What scikit-learn's model is to pickle: a class of that name with its settings and results."""

    def __init__(self, centroids: Any) -> None:
        self.n_clusters = 4
        self.cluster_centers_ = centroids
        self.labels_ = np.zeros(9, np.int32)
        self.inertia_ = np.float32(3.25)  # a scalar of numpy, whose bytes protocols 0 to 2 write as text
        self.random_state = np.random.RandomState(0)


@pytest.fixture
def kmeans_class(monkeypatch: pytest.MonkeyPatch) -> type:
    module = types.ModuleType("sklearn.cluster._kmeans")
    named = type("KMeans", (FittedKMeans,), {"__module__": module.__name__})
    module.KMeans = named  # type: ignore[attr-defined]
    for name in ("sklearn", "sklearn.cluster"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return named


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("protocol", range(6))
def test_kmeans_of_plain_pickle(kmeans_class: Any, protocol: int, dtype: Any, order: Any) -> None:
    model = kmeans_class(np.array(CENTROIDS, dtype, order=order))
    found = read_centroids(zlib.compress(pickle.dumps(model, protocol)), "km.pkl")
    assert np.array_equal(found, CENTROIDS)


@pytest.mark.parametrize("protocol", range(6))
def test_kmeans_of_joblib_in_every_protocol(kmeans_class: Any, protocol: int, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump(kmeans_class(CENTROIDS), tmp_path / "km.bin", protocol=protocol)
    assert np.array_equal(read_centroids((tmp_path / "km.bin").read_bytes(), "km.bin"), CENTROIDS)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("centroids", [None, [[1.0, 2.0]], "objects", "scalar"], ids=str)
def test_plain_pickles_of_other_things_say_what_to_do(kmeans_class: Any, centroids: Any, protocol: int) -> None:
    held = {"objects": np.array([[object()]]), "scalar": np.float32(1)}
    values = held[centroids] if isinstance(centroids, str) else centroids
    with pytest.raises(CodebookError, match=r"km\.pkl cannot be read .*(numpy\.save|names|array of)"):
        read_centroids(pickle.dumps(kmeans_class(values), protocol), "km.pkl")
    with pytest.raises(CodebookError, match=r"km\.pkl cannot be read .*numpy\.save"):
        read_centroids(pickle.dumps({"centroids": CENTROIDS}, protocol), "km.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_damaged_plain_pickles_give_our_error_or_load(kmeans_class: Any, protocol: int) -> None:
    whole = pickle.dumps(kmeans_class(CENTROIDS), protocol)
    for position in range(0, len(whole), 17):
        for damaged in (whole[:position], whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]):
            try:
                read_centroids(damaged, "km.pkl")
            except CodebookError as error:
                assert str(error).startswith("km.pkl ")


def test_an_npy_file_that_holds_a_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = npy(tmp_path / "km.npy", np.array([Runs(marker)], object))
    with pytest.raises(CodebookError, match=r"km\.npy cannot be read"):
        read_centroids(content, "km.npy")
    assert not marker.exists(), "reading ran code from the file"


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "zlib"])
def test_truncated_files_are_refused(pack: Any) -> None:
    whole = pack(KMEANS)
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(CodebookError, match=r"km\.bin cannot be read"):
            read_centroids(whole[:length], "km.bin")


def test_damaged_files_give_our_error_or_load() -> None:
    for position in range(len(KMEANS)):
        damaged = bytearray(KMEANS)
        damaged[position] ^= 0xFF
        try:
            read_centroids(bytes(damaged), "km.bin")
        except CodebookError as error:
            assert str(error).startswith("km.bin ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"hello", "cannot be read"),
        (pickle.dumps([1, 2]), "holds no scikit-learn k-means"),
        (
            KMEANS.replace(b"cluster_centers_", b"cluster_centres_"),
            "has no array cluster_centers_",
        ),
        (KMEANS.replace(b"\x8c\x02f4", b"\x8c\x02O8"), "holds an array of 'O8'"),
        (b"BZh91AY", "compressed with bz2; unpack it first"),
    ],
    ids=["empty", "text", "list", "not fitted", "objects", "bz2"],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(CodebookError, match=message):
        read_centroids(content, "km.bin")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(12, np.float32), r"holds float32 \[12\], no floating-point centroids \[K, D\]"),
        (np.zeros((4, 3), np.int64), "holds int64"),
        (np.zeros((1, 3), np.float32), "of 2 to 65536 units"),
        (np.full((4, 3), np.nan, np.float32), "NaN or infinite"),
        (np.full((4, 3), 1e300), "NaN or infinite"),
    ],
    ids=["one dimension", "integers", "one unit", "NaN", "too large for float32"],
)
def test_arrays_that_are_no_centroids_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    with pytest.raises(CodebookError, match=message):
        read_centroids(npy(tmp_path / "km.npy", array), "km.npy")


def test_reading_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "km.bin").write_bytes(KMEANS)
    from_file = codebook_import.read(str(tmp_path / "km.bin"), "official")
    assert np.array_equal(from_file.weights["centroids"], CENTROIDS)
    assert (from_file.source, from_file.codebook) == ("official", None)
    saved = codebook.save(str(tmp_path / "codebook"), CENTROIDS, {"encoder": ENCODER})
    from_folder = codebook_import.read(str(tmp_path / "codebook"), "other/run")
    assert np.array_equal(from_folder.weights["centroids"], CENTROIDS)
    assert from_folder.codebook is not None
    assert from_folder.codebook.fingerprint == saved.fingerprint


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_path_with_nothing_there_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodebookError, match="km500 is neither a file of centroids nor the folder of a codebook"):
        codebook_import.read(str(tmp_path / name), "km500")


def test_a_codebook_must_fit_the_run(tmp_path: Path) -> None:
    (tmp_path / "km.bin").write_bytes(KMEANS)
    from_file = codebook_import.read(str(tmp_path / "km.bin"), "km.bin")
    codebook_import.check(from_file, 4, ENCODER)
    with pytest.raises(CodebookError, match=r"km\.bin has 4 units; set codebook\.num_units, now 500"):
        codebook_import.check(from_file, 500, ENCODER)
    with pytest.raises(CodebookError, match="takes features of 3 dimensions, but the features of the encoder mfcc"):
        codebook_import.check(from_file, 4, {**ENCODER, "feature_dim": 39})
    codebook.save(str(tmp_path / "codebook"), CENTROIDS, {"encoder": ENCODER})
    from_folder = codebook_import.read(str(tmp_path / "codebook"), "other/run")
    codebook_import.check(from_folder, 4, ENCODER)
    with pytest.raises(CodebookError, match="fitted on another encoder"):
        codebook_import.check(from_folder, 4, {**ENCODER, "fingerprint": "encoder-2"})
