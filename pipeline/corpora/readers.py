"""The reader of each kind of corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.corpora import (
    common_voice,
    fisher,
    folder,
    hf_parquet,
    lhotse,
    libri_light,
    librispeech,
    ljspeech,
    mls,
    peoples_speech,
    spotify,
    voxpopuli,
    webdataset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.corpora.source import AudioFile, CorpusConfig, Kind, Notice

READERS: dict[str, Callable[[CorpusConfig], Iterator[AudioFile]]] = {
    "folder": folder.find_recordings,
    "librispeech": librispeech.find_recordings,
    "libri_light": libri_light.find_recordings,
    "spotify": spotify.find_recordings,
    "peoples_speech": peoples_speech.find_recordings,
    "voxpopuli": voxpopuli.find_recordings,
    "mls": mls.find_recordings,
    "common_voice": common_voice.find_recordings,
    "fisher": fisher.find_recordings,
    "ljspeech": ljspeech.find_recordings,
    "webdataset": webdataset.find_recordings,
    "hf_parquet": hf_parquet.find_recordings,
    "lhotse": lhotse.find_recordings,
}


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the audio of a corpus, in an order that depends only on its files.

    Raises:
        CorpusError: the corpus is not laid out as its reader expects.
    """
    return READERS[kind_of(config)](config)


def kind_of(config: CorpusConfig) -> Kind:
    """The kind of a corpus, found from its files if the settings say `auto`."""
    if config.kind != "auto":
        return config.kind
    looks_like_it = config.metadata is None and librispeech.is_librispeech(config.list_files())
    return "librispeech" if looks_like_it else "folder"
