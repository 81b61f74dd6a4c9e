"""Converts the language tags of corpora and models to ISO 639-1 (`en`), or ISO 639-3 (`yue`) if that has no code.

Codes and English names of all languages are those of ISO 639, from the package python-iso639. What names no language,
or several, is no tag: `normalize_code` gives "" for it, so that the next kind of evidence decides.
"""

from __future__ import annotations

import functools
import re

# ISO 639-3 and 639-1 of each language that has both, from the standard's tables; members of a macrolanguage that models
# tell apart map to the macrolanguage's code. At the end come the bibliographic codes of ISO 639-2 (`ger`).
_ISO_639_3 = """
aar:aa abk:ab afr:af aka:ak amh:am ara:ar arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba bam:bm bel:be ben:bn bis:bi
bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chu:cu chv:cv cor:kw cos:co cre:cr cym:cy dan:da deu:de div:dv
dzo:dz ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi fra:fr fry:fy ful:ff gla:gd gle:ga glg:gl
glv:gv grn:gn guj:gu hat:ht hau:ha hbs:sh heb:he her:hz hin:hi hmo:ho hrv:hr hun:hu hye:hy ibo:ig ido:io iii:ii iku:iu
ile:ie ina:ia ind:id ipk:ik isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kas:ks kat:ka kau:kr kaz:kk khm:km kik:ki kin:rw
kir:ky kom:kv kon:kg kor:ko kua:kj kur:ku lao:lo lat:la lav:lv lim:li lin:ln lit:lt ltz:lb lub:lu lug:lg mah:mh mal:ml
mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nau:na nav:nv nbl:nr nde:nd ndo:ng nep:ne nld:nl nno:nn nob:nb
nor:no nya:ny oci:oc oji:oj ori:or orm:om oss:os pan:pa pli:pi pol:pl por:pt pus:ps que:qu roh:rm ron:ro run:rn rus:ru
sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn snd:sd som:so sot:st spa:es sqi:sq srd:sc srp:sr ssw:ss sun:su
swa:sw swe:sv tah:ty tam:ta tat:tt tel:te tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr twi:tw uig:ug
ukr:uk urd:ur uzb:uz ven:ve vie:vi vol:vo wln:wa wol:wo xho:xh yid:yi yor:yo zha:za zho:zh zul:zu
arb:ar azb:az azj:az cmn:zh ekk:et fuv:ff khk:mn kmr:ku lvs:lv npi:ne ory:or pes:fa plt:mg swh:sw uzn:uz zlm:ms zsm:ms
als:sq gaz:om ydd:yi gug:gn quz:qu uzs:uz ckb:ku alb:sq arm:hy baq:eu bur:my chi:zh cze:cs dut:nl fre:fr geo:ka ger:de
gre:el ice:is mac:mk mao:mi may:ms per:fa rum:ro slo:sk tib:bo wel:cy
"""
_TWO_LETTERS = dict(pair.split(":") for pair in _ISO_639_3.split())
# Withdrawn codes that models still use.
_WITHDRAWN = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro"}
# Names that are not the standard's own.
_NAMES = {
    "mandarin": "zh", "mandarin chinese": "zh", "cantonese": "yue", "norwegian bokmal": "nb", "persian": "fa",
    "farsi": "fa", "greek": "el", "punjabi": "pa", "burmese": "my", "myanmar": "my", "kiswahili": "sw", "malay": "ms",
    "nepali": "ne", "sinhalese": "si", "flemish": "nl", "castilian": "es", "moldavian": "ro", "moldovan": "ro",
    "valencian": "ca", "haitian creole": "ht", "pushto": "ps", "pashto": "ps", "odia": "or", "oriya": "or",
    "bengali": "bn", "bangla": "bn", "uyghur": "ug", "uighur": "ug", "kurdish": "ku", "frisian": "fy", "kyrgyz": "ky",
    "tagalog": "tl", "swahili": "sw", "albanian": "sq", "estonian": "et", "latvian": "lv", "azerbaijani": "az",
}  # fmt: skip
# What people write where they know no language, or several: not codes, though ISO 639-3 has a language for some (`nan`
# is Min Nan, `unk` Enawene-Nawe; with a region or script, as in `nan-TW`, they are languages).
_NO_LANGUAGE_WORDS = """
und unk unknown undetermined undefined unspecified mis mul xx xxx zxx n/a na nan none null nil other others oth
misc any all mixed multi multiple multilingual several unlabeled unlabelled untagged default tbd todo
"""
_NO_LANGUAGE = frozenset(_NO_LANGUAGE_WORDS.split())
# Words beside a language's name that do not make it another language.
_VARIETY_WORDS = """
us usa uk gb au ca nz ie za american british canadian australian indian irish scottish african european brazilian
mexican swiss austrian standard modern simplified traditional language male female accent
"""
_VARIETIES = frozenset(_VARIETY_WORDS.split())
NO_LINGUISTIC_CONTENT = "zxx"
ISO_639_1 = frozenset(_TWO_LETTERS.values())

_BETWEEN_LANGUAGES = re.compile(r"\s*(?:[,;/|+&]|\band\b)\s*")
_SUBTAGS = re.compile(r"(?P<language>[a-z]{2,3})(?:[-_.@][a-z0-9-_.@]*| [a-z]{2})")


@functools.lru_cache(4096)  # a corpus has few tags, and asks for each recording
def normalize_code(code: str) -> str:
    """The language code of a tag: `en-US`, `[en]`, `EN_gb`, `eng` and `English (US)` all give `en`.

    A tag that names no language, several, or one that ISO 639 does not know gives "".
    """
    tag = _clean(code)
    if not tag or tag in _NO_LANGUAGE:
        return ""
    without_remarks = re.sub(r"\s*\(.*?\)", "", tag)
    parts = _BETWEEN_LANGUAGES.split(without_remarks)
    parts = [part for part in parts if part and (len(part) == 2 or part not in _VARIETIES)]
    if len(parts) > 1 and all(map(_one_language, parts)):
        several = set(map(_one_language, parts))
        return several.pop() if len(several) == 1 else ""
    return _one_language(tag) or (_one_language(parts[0]) if len(parts) == 1 else "")


def is_told(code: str) -> bool:
    """Whether a tag is meant to name one language: not so `unknown`, `mul` or an empty one."""
    tag = _clean(code)
    return bool(re.search(r"\w", tag)) and tag not in _NO_LANGUAGE


def is_without_language(code: str) -> bool:
    """Whether a tag says that nothing is spoken (ISO 639-2's `zxx`, no linguistic content)."""
    return _clean(code) == NO_LINGUISTIC_CONTENT


def _clean(code: str) -> str:
    plain = code.strip("[]{}<>'\"` \t\r\n\0\ufeff")
    if plain.startswith("(") and plain.endswith(")"):
        plain = plain[1:-1]
    return " ".join(plain.lower().split())


def _one_language(tag: str) -> str:
    """The code of a tag that is written as one language; "" if it is none."""
    if found := _code_or_name(tag):
        return found
    if match := _SUBTAGS.fullmatch(tag):
        return _code_or_name(match["language"], is_exact=False)
    plain = re.sub(r"\s*[(\[].*", "", tag)  # `English (US)`; `Greek, Modern (1453-)` is a name of its own, tried above
    words = [word for word in re.split(r"[\s_-]+", plain) if word not in _VARIETIES]
    return _code_or_name(plain) or (_code_or_name(words[0]) if len(words) == 1 else "")


def _code_or_name(tag: str, is_exact: bool = True) -> str:
    if is_exact and tag in _NO_LANGUAGE:
        return ""
    tag = _NAMES.get(tag, tag)
    tag = _WITHDRAWN.get(tag, _TWO_LETTERS.get(tag, tag))
    if tag in ISO_639_1:
        return tag
    return _codes_of_iso_639().get(tag, "")


@functools.cache
def _codes_of_iso_639() -> dict[str, str]:
    """The code by each code and name of ISO 639, in lower case."""
    from iso639 import ALL_LANGUAGES

    codes: dict[str, str] = {}
    names: dict[str, str] = {}
    for language in sorted(ALL_LANGUAGES, key=lambda language: str(language.part3)):
        if language.scope == "S" or not language.part3:  # special codes, such as `mul`
            continue
        code = _TWO_LETTERS.get(language.part3, language.part1 or language.part3)
        for known in (language.part3, language.part2b, language.part2t):
            if known:
                codes[known] = code
        for name in {language.name, *(other.print for other in language.other_names or ())}:
            # Where a name is that of several, the one with a code of two letters is meant.
            if name.lower() not in names or (len(code) == 2 and len(names[name.lower()]) == 3):
                names[name.lower()] = code
    return {**names, **codes}
