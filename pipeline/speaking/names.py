"""What tokenizers, voices and models are called: Meta's, which are downloaded, and the small ones that come with us."""

from __future__ import annotations

from pathlib import Path

from model.official_files import ARTEFACTS, EXPRESSO_2000_VOCODER, EXPRESSO_VOCODER, VOCODER
from pipeline.errors import TwistError
from pipeline.files import storage

OFFICIAL_ENCODER, OFFICIAL_CODEBOOK = "mhubert-base-25hz", "mhubert-base-25hz-km500"
OFFICIAL_CODEBOOK_SIZE = 500
# Meta's codebooks: the encoder and the layer whose features each was fitted on.
FITTED_ON = {
    OFFICIAL_CODEBOOK: (OFFICIAL_ENCODER, 11),
    **{f"hubert-base-ls960-km{size}": ("hubert-base-ls960", 6) for size in (50, 100, 200, 500)},
    "hubert-base-ls960-l9-km500": ("hubert-base-ls960", 9),
    "hubert-base-ls960-l9-km2000-expresso": ("hubert-base-ls960", 9),
}
OFFICIAL_MODELS = tuple(name for name in ARTEFACTS if name.startswith("twist-"))
EMBEDDED_ENCODER, EMBEDDED_CODEBOOK = "hubert-tiny-25hz", "hubert-tiny-25hz-km100"
EMBEDDED_VOCODER = "hifigan-tiny-25hz"
# The name of an encoder with one codebook stands for that: neither can be used without the other.
CODEBOOK_OF = {OFFICIAL_ENCODER: OFFICIAL_CODEBOOK, EMBEDDED_ENCODER: EMBEDDED_CODEBOOK}
TOKENIZERS = (*CODEBOOK_OF, EMBEDDED_CODEBOOK, *FITTED_ON)
VOICES = (EMBEDDED_VOCODER, VOCODER, EXPRESSO_VOCODER, EXPRESSO_2000_VOCODER)


def refuse_unknown(source: str, kind: str, names: tuple[str, ...]) -> None:
    """Refuses a source that is neither one of the names nor anything on this machine or on S3.

    Args:
        source: A name, file, folder or run.
        kind: What it should be, for the message.
        names: The known names.

    Raises:
        TwistError: there is no such thing.
    """
    if source not in names and not storage.is_s3(source) and not Path(source).exists():
        raise TwistError(f"there is no {kind} {source}: give a run, a folder or one of {', '.join(names)}")
