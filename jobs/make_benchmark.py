"""Makes a spoken benchmark; the same packages and settings give the same bytes.

twist make-benchmark mini FOLDER: a small one of all kinds, for the demo: words, sentences, stories.
twist make-benchmark stsp FOLDER: a small one of moods, happy, sad and neutral, in text and speech.
twist make-benchmark storycloze FOLDER --speech.stories FILE: Spoken StoryCloze from your own copy of the stories.

Voices are espeak-ng's, or one of Piper (an ONNX file), with the extra `piper`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.folder_makers import Maker, command_of
from jobs.progress import progress
from pipeline.synthetic.config import MiniBenchmarkConfig, MiniStspConfig, StoriesConfig

if TYPE_CHECKING:
    from pipeline.synthetic.stories import Speak


def mini(folder: Path, config: MiniBenchmarkConfig) -> None:
    """Makes a small benchmark of words, sentences and stories."""
    from pipeline.synthetic.mini_benchmark import write_mini_benchmark

    with progress("benchmark") as report:
        write_mini_benchmark(folder, config, report)
    pairs = f"{config.num_words} words and {config.num_sentences} sentences in {config.num_voices} voices"
    print(f"benchmark  {pairs}, {config.num_stories} stories, in {folder}")


def stsp(folder: Path, config: MiniStspConfig) -> None:
    """Makes a small benchmark of moods, as STSP has them."""
    from pipeline.synthetic.mini_stsp import write_mini_stsp

    with progress("benchmark") as report:
        write_mini_stsp(folder, config, report)
    print(f"benchmark  {config.num_prompts} prompts of each of three emotions in text, and in speech, in {folder}")


def storycloze(folder: Path, config: StoriesConfig) -> None:
    """Speaks stories as Spoken StoryCloze (sSC and tSC)."""
    from pipeline.synthetic.espeak import synthesize
    from pipeline.synthetic.piper import SUFFIX, load_piper_voice
    from pipeline.synthetic.stories import read_stories, write_storycloze

    stories = read_stories(config.stories)
    pace = config.words_per_minute
    speak: Speak
    if config.voice.endswith(SUFFIX):
        speak = functools.partial(load_piper_voice(config.voice), words_per_minute=pace)
    else:
        speak = functools.partial(synthesize, voice=config.voice, words_per_minute=pace)
    with progress("benchmark") as report:
        write_storycloze(folder, stories, speak, config.seed, report)
    print(f"benchmark  {len(stories):,} stories in {folder}/sSC and {folder}/tSC")


main = command_of(
    "make-benchmark",
    __doc__,
    {
        "mini": Maker(mini, MiniBenchmarkConfig),
        "stsp": Maker(stsp, MiniStspConfig),
        "storycloze": Maker(storycloze, StoriesConfig),
    },
)


if __name__ == "__main__":
    sys.exit(main())
