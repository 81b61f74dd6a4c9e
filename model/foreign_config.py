"""What config.json of a model that others made may ask for, before a library builds anything by it.

transformers would otherwise ask on the terminal whether to run the code that such a folder names, and would build as
many layers as it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import foreign_json

if TYPE_CHECKING:
    from collections.abc import Mapping

# Far above any model; a damaged or hostile config would have us build layers, or a table, until memory ends.
MOST_LAYERS = 2**10
LARGEST_SIZE = 2**31


def read_content(folder: str | Path) -> dict[str, Any]:
    """The JSON object in a folder's config.json.

    Raises:
        ValueError: it holds none.
    """
    try:
        content = foreign_json.parse(Path(folder, "config.json").read_bytes())
    except ValueError as error:
        raise ValueError(f"its config.json is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("its config.json holds no JSON object")
    return content


def architectures_of(content: Mapping[str, Any]) -> list[str]:
    """The classes that a config names; none where it does not say."""
    names = content.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def refuse_hostile(content: Mapping[str, Any]) -> None:
    """Refuses a config that asks for code of its own or for absurd sizes.

    Raises:
        ValueError: it does.
    """
    from transformers import CONFIG_MAPPING

    if "auto_map" in content and content.get("model_type") not in CONFIG_MAPPING:
        raise ValueError("it needs code that comes with it (auto_map in its config.json), which is never run")
    for name, size in content.items():
        if isinstance(size, dict):
            refuse_hostile(size)
        most = MOST_LAYERS if "layer" in name else LARGEST_SIZE
        if isinstance(size, int) and size > most:
            raise ValueError(f"its config.json has {name} {size}; at most {most} can be")
