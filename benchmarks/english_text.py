"""English prose from Debian's packages, to train a text LM on where no corpus can be fetched.

    python benchmarks/english_text.py FOLDER

Downloads the packages below with apt-get (Debian 12; nothing is installed), takes out paragraphs of prose, and writes
FOLDER/NAME.txt, a paragraph a line, and FOLDER/packages.tsv: each package's version, licence and number of characters.
Paragraphs that occur twice are kept once. A package that is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import gzip
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Package, its licence, and what to take of its files.
PACKAGES = (
    ("dict-gcide", "GPL-3+", r"gcide\.dict\.dz$"),
    ("wordnet-base", "WordNet 3.0", r"/data\.(noun|verb|adj|adv)$"),
    ("linux-doc-6.1", "GPL-2", r"\.html(\.gz)?$"),
    ("python3.11-doc", "PSF-2", r"\.html(\.gz)?$"),
    ("erlang-doc", "Apache-2.0", r"\.html(\.gz)?$"),
    ("debian-handbook", "GPL-2+ or CC-BY-SA-3.0", r"/en-US/.*\.html(\.gz)?$"),
    ("perl-doc", "GPL-1+ or Artistic", r"\.pod(\.gz)?$"),
    ("postgresql-doc-15", "PostgreSQL", r"\.html(\.gz)?$"),
    ("gimp-help-en", "GFDL-1.2+", r"\.html(\.gz)?$"),
    ("libreoffice-help-en-us", "MPL-2.0", r"\.html(\.gz)?$"),
    ("apache2-doc", "Apache-2.0", r"/en/.*\.html$"),
    ("maxima-doc", "GPL-2+", r"\.html(\.gz)?$"),
    ("octave-doc", "GPL-3+", r"\.html(\.gz)?$"),
    ("installation-guide-amd64", "GPL-2+", r"/en/.*\.html(\.gz)?$"),
    ("debian-reference-en", "GPL-2+", r"\.en\.html(\.gz)?$"),
    ("dict-foldoc", "GFDL-1.1+", r"foldoc\.dict\.dz$"),
    ("jargon-text", "public domain", r"\.txt(\.gz)?$"),
    ("dict-devil", "public domain", r"devil\.dict\.dz$"),
    ("qtbase5-doc-html", "GFDL-1.3", r"\.html(\.gz)?$"),
    ("libboost1.74-doc", "BSL-1.0", r"\.html(\.gz)?$"),
    ("libgtk-3-doc", "LGPL-2+", r"\.html(\.gz)?$"),
    ("libglib2.0-doc", "LGPL-2.1+", r"\.html(\.gz)?$"),
    ("manpages-dev", "GPL-2+ and others", r"/man\d/"),
    ("fortunes", "BSD and public domain", r"/fortunes/\w+$"),
    ("miscfiles", "GPL-2+ and public domain", r"/misc/|\.txt(\.gz)?$"),
)
BLOCKS = re.compile(r"</?(?:p|li|dd|dt|td|th|tr|h[1-6]|div|pre|table|ul|ol|dl|br|section)\b[^>]*>", re.IGNORECASE)
NO_PROSE = re.compile(r"<(script|style|pre|head|nav)\b.*?</\1>", re.IGNORECASE | re.DOTALL)
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*[.,;:!?)\"']*")
MIN_WORDS, MIN_SHARE_OF_WORDS = 8, 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the text goes")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    rows = []
    for package, licence, wanted in PACKAGES:
        text, version_file = folder / f"{package}.txt", folder / f"{package}.version"
        if not version_file.exists():
            version = fetch(package, re.compile(wanted), text)
            version_file.write_text(version)
        num_characters = keep_new(text, seen)
        rows.append((package, version_file.read_text(), licence, str(num_characters)))
        sys.stderr.write("\t".join(rows[-1]) + "\n")
    (folder / "packages.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    sys.stdout.write(f"{sum(int(row[-1]) for row in rows):,} characters\n")


def fetch(package: str, wanted: re.Pattern[str], text: Path) -> str:
    """Writes a package's prose to `text`, a paragraph a line; returns its version."""
    with tempfile.TemporaryDirectory() as folder:
        # apt-get gives up root's rights to download, where it has them.
        Path(folder).chmod(0o777)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.deb")
        unpacked = Path(folder) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
        files = sorted(path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink())
        with text.open("w") as written:
            for path in files:
                if wanted.search(path.as_posix()):
                    written.writelines(f"{paragraph}\n" for paragraph in prose(path))
        return archive.name.split("_")[1]


def prose(path: Path) -> Iterator[str]:
    """Paragraphs of a file that are mostly words, each in one line of ASCII."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    text = content.decode("utf-8", "ignore")
    for paragraph in paragraphs(text, path.name):
        line = " ".join(paragraph.split()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        line = re.sub("[\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}]", '"', line)
        line = line.encode("ascii", "ignore").decode()
        words = line.split()
        num_plain = sum(WORD.fullmatch(word.lstrip("(\"'")) is not None for word in words)
        if len(words) >= MIN_WORDS and num_plain >= MIN_SHARE_OF_WORDS * len(words):
            yield line


def paragraphs(text: str, name: str) -> Iterable[str]:
    """A file cut into paragraphs: HTML at its blocks, WordNet at its glosses, anything else at empty lines."""
    if ".html" in name:
        blocks = BLOCKS.split(NO_PROSE.sub("<p>", text))
        return (html.unescape(re.sub(r"<[^>]*>", "", block)) for block in blocks)
    if name.startswith("data."):
        return (line.partition(" | ")[2] for line in text.splitlines())
    if name.endswith(".dict.dz"):
        # Without marks of pronunciation and of fields.
        return re.split(r"\n\s*\n|\n(?=\S)|\n\s+(?=\d+\. )", re.sub(r"[{}]|\[[^\]]*\]|\\[^\\\n]*\\", "", text))
    # Perl's marks of fonts, and man's.
    plain = re.sub(r"[A-Z]<+([^<>]*)>+", r"\1", re.sub(r"\\f.|\\", "", text))
    return re.split(r"\n\s*\n|\n%\n|\n\.[^\n]*\n", plain)


def keep_new(text: Path, seen: set[int]) -> int:
    """Takes the lines out that have been seen; returns how many characters are left."""
    lines = []
    for line in text.read_text().splitlines(keepends=True):
        if hash(line) not in seen:
            seen.add(hash(line))
            lines.append(line)
    text.write_text("".join(lines))
    return sum(map(len, lines))


if __name__ == "__main__":
    main()
