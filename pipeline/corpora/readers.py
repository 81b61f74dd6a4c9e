"""The reader of each kind of corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.corpora import (
    common_voice,
    fairseq,
    fisher,
    folder,
    hf_parquet,
    lhotse,
    libri_light,
    librispeech,
    ljspeech,
    mls,
    nemo,
    peoples_speech,
    spotify,
    voxpopuli,
    webdataset,
)
from pipeline.corpora.source import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.corpora.source import AudioFile, CorpusConfig, Kind, Notice

READERS: dict[str, Callable[[CorpusConfig], Iterator[AudioFile | Notice]]] = {
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
    "fairseq": fairseq.find_recordings,
    "nemo": nemo.find_recordings,
}


# What `auto` looks for, in this order. A kind is chosen only where all audio of the folder is where that kind has it,
# and its tables are what they are called; everything else is a plain folder. The People's Speech looks like any tars.
RECOGNIZERS: dict[Kind, Callable[[CorpusConfig, list[str]], bool]] = {
    "librispeech": librispeech.is_librispeech,
    "mls": mls.is_mls,
    "libri_light": libri_light.is_libri_light,
    "fisher": fisher.is_fisher,
    "voxpopuli": voxpopuli.is_voxpopuli,
    "common_voice": common_voice.is_common_voice,
    "spotify": spotify.is_spotify,
    "ljspeech": ljspeech.is_ljspeech,
    "lhotse": lhotse.is_lhotse,
    "fairseq": fairseq.is_fairseq,
    "nemo": nemo.is_nemo,
    "hf_parquet": hf_parquet.is_hf_parquet,
    "webdataset": webdataset.is_webdataset,
}
# Kinds of any content: a folder with a table of its own is none of them.
_OF_ANYBODY = ("lhotse", "fairseq", "nemo", "hf_parquet", "webdataset")


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
    if config.metadata is not None:
        return "folder"
    names = config.list_files()
    for kind, is_it in RECOGNIZERS.items():
        if kind in _OF_ANYBODY and not set(folder.METADATA_NAMES).isdisjoint(names):
            continue
        try:
            if is_it(config, names):
                return kind
        except CorpusError:  # a table that cannot be read as this kind's
            continue
    return "folder"
