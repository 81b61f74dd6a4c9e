"""The audio of a benchmark's items, for what hears it whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.audio.read import AudioError, Span, probe, read_spans
from pipeline.evaluation.item_units import READS_ON_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.evaluation.item_units import AudioItem


def audio_reader(
    items: Mapping[str, AudioItem],
) -> Callable[[Sequence[str]], Iterator[NDArray[np.float32] | AudioError]]:
    """Reads some items, by their names: wav [S] at 16 kHz of the item's stretch, or why not."""

    def read(item_ids: Sequence[str]) -> Iterator[NDArray[np.float32] | AudioError]:
        for item_id in item_ids:
            item = items[item_id]
            if item.end_s is not None:
                yield from read_spans([Span(item.uri, item.channel, item.start_s, item.end_s)])
                continue
            try:
                end_s = probe(item.uri).duration_s
            except AudioError as error:
                yield error
            else:
                yield from read_spans([Span(item.uri, item.channel, item.start_s, end_s, READS_ON_S)])

    return read
