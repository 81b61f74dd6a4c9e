"""What tokenizers, voices and models are called: Meta's, which are downloaded, and the small ones that come with us."""

from __future__ import annotations

from model.artefacts import ARTEFACTS

OFFICIAL_ENCODER, OFFICIAL_LAYER, OFFICIAL_CODEBOOK = "mhubert-base-25hz", 11, "mhubert-base-25hz-km500"
OFFICIAL_CODEBOOK_SIZE = 500
OFFICIAL_MODELS = tuple(name for name in ARTEFACTS if name.startswith("twist-"))
EMBEDDED_ENCODER, EMBEDDED_CODEBOOK = "hubert-tiny-25hz", "hubert-tiny-25hz-km100"
EMBEDDED_VOCODER = "hifigan-tiny-25hz"
# An encoder's name stands for its codebook: neither can be used without the other.
CODEBOOK_OF = {OFFICIAL_ENCODER: OFFICIAL_CODEBOOK, EMBEDDED_ENCODER: EMBEDDED_CODEBOOK}
