"""The files that Meta publishes for TWIST and the models before it, by name: what, where and which bytes.

Addresses and checksums are those of textlesslib's textless/checkpoint_manager and examples/twist. No size is published
for any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

_FILES = "https://dl.fbaipublicfiles.com"
_TWIST = f"{_FILES}/textless_nlp/twist"
_GSLM = f"{_FILES}/textless_nlp/gslm/hubert"
_EXPRESSO = f"{_FILES}/textless_nlp/expresso/checkpoints"

VOCODER = "mhubert-base-25hz-hifigan"
EXPRESSO_VOCODER = "hubert-base-ls960-l9-km500-hifigan"
EXPRESSO_2000_VOCODER = "hubert-base-ls960-l9-km2000-expresso-hifigan"


@dataclass(frozen=True)
class Artefact:
    """An official file.

    Attributes:
        what: Description in one line.
        url: Where it is published.
        sha256: Its published checksum (hex); None if none is published, so that the file cannot be verified.
        folder: Its folder in the cache, for files of names such as km.bin.
        beside: Names of artefacts that belong to it.
    """

    what: str
    url: str
    sha256: str | None
    folder: str = ""
    beside: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The last part of its address."""
        return self.url.rpartition("/")[2]

    @property
    def cached_as(self) -> str:
        """Its path in the cache."""
        return f"{self.folder}/{self.file_name}" if self.folder else self.file_name


def _codebooks_of_hubert_base(checksums: dict[int, str]) -> dict[str, Artefact]:
    return {
        f"hubert-base-ls960-km{size}": Artefact(
            f"codebook of {size} units of HuBERT Base's layer 6 (joblib k-means)",
            f"{_GSLM}/km{size}/km.bin",
            sha256,
            folder=f"hubert-base-ls960-km{size}",
        )
        for size, sha256 in checksums.items()
    }


def _expressive_voice(name: str, what: str, place: str, checksums: dict[str, str]) -> dict[str, Artefact]:
    """A vocoder that takes speakers and styles, and the files that belong to it, in a folder of their own."""
    generator, *others = checksums
    files = {generator: name} | {file: f"{name}-{file.partition('.')[0]}" for file in others}
    return {
        artefact: Artefact(
            what if file == generator else f"{file} of {name}",
            f"{_EXPRESSO}/{place}/{file}",
            checksums[file],
            folder=name,
            beside=tuple(files[other] for other in others) if file == generator else (),
        )
        for file, artefact in files.items()
    }


ARTEFACTS = {
    "mhubert-base-25hz": Artefact(
        "TWIST's HuBERT at 25 Hz (fairseq); features of layer 11",
        f"{_TWIST}/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher.pt",
        "edf0f5be2581a568a236aeb2781a5607c5af25806e12f40f7f2391e861fe3cf0",
    ),
    "mhubert-base-25hz-km500": Artefact(
        "its codebook of 500 units (joblib k-means)",
        f"{_TWIST}/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
        "03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
    ),
    VOCODER: Artefact(
        "vocoder of these units (unit HiFi-GAN, LJSpeech)",
        f"{_TWIST}/speech_tokenizer/hifigan_lj_mhubert_base_25hz.pt",
        "d88224e95c501e2cd59a6e4014753169cfe060fb7ade3cc0da03c809fef73b79",
        beside=(f"{VOCODER}-config",),
    ),
    f"{VOCODER}-config": Artefact(
        "the vocoder's config",
        f"{_TWIST}/speech_tokenizer/hifigan_lj_mhubert_base_25hz_config.json",
        "116dc39be4970cd393e562acd0a0ec70a86aaba7e9ca469b8b836cb3fe46afc7",
    ),
    "hubert-base-ls960": Artefact(
        "HuBERT Base at 50 Hz (fairseq); features of layer 6, or 9 for the expressive voices",
        f"{_FILES}/hubert/hubert_base_ls960.pt",
        "1703cf8d2cdc76f8c046f5f6a9bcd224e0e6caf4744cad1a1f4199c32cac8c8d",
    ),
    **_codebooks_of_hubert_base(
        {
            50: "d01a7d5bc2c54b7b5f25f321ba525b4d230b06e3927f90bad0394198bc89f494",
            100: "f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe",
            200: "b3c46c9cdd1707ad852dd53c359aa73942e79d53c432a9a8a419ed046408024b",
            500: "411c8668e1314751404f58636f935fc73540a6793890435da4a8ffadf157398e",
        }
    ),
    "hubert-base-ls960-l9-km500": Artefact(
        "codebook of 500 units of HuBERT Base's layer 9 (joblib k-means)",
        f"{_FILES}/hubert/hubert_base_ls960_L9_km500.bin",
        "4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
    ),
    "hubert-base-ls960-l9-km2000-expresso": Artefact(
        "codebook of 2,000 units of HuBERT Base's layer 9, fitted on Expresso (joblib k-means)",
        f"{_EXPRESSO}/hubert_base_ls960_L9_km2000_expresso.bin",
        "ae73e3cc7ea0426faf43c8bb67fc3846a0f8708232526d045a101836e8c7929f",
    ),
    **_expressive_voice(
        EXPRESSO_VOCODER,
        "vocoder of the 500 units of layer 9, of several speakers and styles (Expresso, LJSpeech, VCTK)",
        "hifigan_expresso_lj_vctk_hubert_base_ls960_L9_km500",
        {
            "generator.pt": "d50f4704e961c29cb386924ef32cd0c3a4d1089a3f9be856f8a3b6dcfdd6147a",
            "config.json": "31e65ef5e100cb43de08f2c8d225496ace1ed87a49fcb8ee44bd6805f079b1f0",
            "speakers.txt": "2efabb7a4ad786da34fe6fbe99c3906b7abd40b2e01c81b7efde76142ae3d552",
            "styles.txt": "a6f63206518448277c63c3a251ac13484784829cf2e1b0a23b0860dd32543520",
        },
    ),
    **_expressive_voice(
        EXPRESSO_2000_VOCODER,
        "vocoder of the 2,000 units of layer 9, of several speakers and styles (Expresso, LJSpeech, VCTK)",
        "hifigan_expresso_lj_vctk_hubert_base_ls960_L9_km2000_expresso",
        {
            "generator.pt": "b892fdcca889f4bc6d7f0a0f407ae5d01eca8aaa66b9be333ef33a1c50f2ef52",
            "config.json": "73932563cedc43cd1dcddfab36ce3b2c3cb76eef3423d25d1fb536ce1ec513bb",
            "speakers.txt": "2efabb7a4ad786da34fe6fbe99c3906b7abd40b2e01c81b7efde76142ae3d552",
            "styles.txt": "a6f63206518448277c63c3a251ac13484784829cf2e1b0a23b0860dd32543520",
        },
    ),
    "twist-350m": Artefact("TWIST-350M (zip of a transformers folder)", f"{_TWIST}/lms/TWIST-350M.zip", None),
    "twist-1.3b": Artefact("TWIST-1.3B (zip of a transformers folder)", f"{_TWIST}/lms/TWIST-1.3B.zip", None),
    "twist-7b": Artefact("TWIST-7B (zip of a transformers folder)", f"{_TWIST}/lms/TWIST-7B.zip", None),
}
