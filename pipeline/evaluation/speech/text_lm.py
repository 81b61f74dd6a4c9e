"""How likely a text LM finds texts: what GenPPL is made of.

    <folder>/text_nats/<key>/part-*.parquet    a row a text (SCHEMA)

Texts are scored one by one, so that nothing depends on padding. A model with a BOS gets it before each text, whether or
not its tokenizer adds it: then each token of the text is scored, and a text of one token has a score.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from model.device import pick_device
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError
from pipeline.evaluation.speech.kept_parts import kept_parts
from pipeline.evaluation.speech.stored_model import StoredModel, loading
from pipeline.files import storage
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.device import Device
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig

SCHEMA = pa.schema(
    [
        pa.field("nats", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_cut_tokens", pa.int32(), nullable=False),
    ]
)
# Texts that an actor scores, and whose scores are kept, together.
TEXTS_AT_ONCE = 32


class TextScore(NamedTuple):
    """What a text LM says of a text.

    Attributes:
        nats: Minus the log-probability of what was scored.
        num_tokens: Tokens that were scored; 0 if there are none.
        num_cut_tokens: Tokens at its end that were not scored, since the model takes no more.
    """

    nats: float
    num_tokens: int
    num_cut_tokens: int


@dataclass(frozen=True)
class TextLM(StoredModel):
    """A causal LM of text, loaded when it is first to score something."""

    def score(self, text: str) -> TextScore:
        """Scores a text; of one longer than the model takes, its beginning, and tells how much is left.

        Raises:
            TwistError: the model cannot be loaded.
        """
        import torch

        model, tokenizer, max_ids = self._loaded
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        whole = [*before, *ids]
        ids = whole[:max_ids]
        if len(ids) < 2:
            return TextScore(0.0, 0, 0)
        inputs = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=inputs).logits[0, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits, inputs[0, 1:], reduction="sum")
        return TextScore(float(nats), len(ids) - 1, len(whole) - len(ids))

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with loading(f"{self.source} cannot be loaded as a text LM with its tokenizer", self.folder):
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
            model, report = AutoModelForCausalLM.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        if report["missing_keys"]:  # transformers would fill them with random numbers
            raise TwistError(f"{self.source} lacks tensors of its model, {min(report['missing_keys'])} among them")
        refuse_not_finite(model.state_dict(), self.source)
        max_ids = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        # In float32, whatever it was stored in: figures must not depend on that.
        return model.float().to(pick_device(self.device)).eval(), tokenizer, int(max_ids)


def find_text_lm(source: str, device: Device = "auto") -> TextLM:
    """The text LM in a folder, local or s3://; it is not loaded yet.

    Raises:
        TwistError: there is no model in it.
    """
    if not storage.exists(storage.join(source, "config.json")):
        raise TwistError(f"{source} is no text LM: give a folder with a causal LM of transformers (config.json)")
    return TextLM(storage.absolute(source), device)


def nats_of_texts(
    folder: str, texts: Sequence[str], lm: TextLM, cluster: ClusterConfig, report: ReportProgress
) -> list[TextScore]:
    """The score of each text; made once, by actors on Ray, and kept in `folder`.

    Raises:
        TwistError: the model cannot be loaded.
        RunError: actors die, or a disk or store fails.
    """
    kept = storage.join(folder, "text_nats", digest(*SCHEMA.names, lm.fingerprint, *texts)[:16])
    score = functools.partial(_score, lm)
    parts = kept_parts(kept, len(texts), TEXTS_AT_ONCE, texts.__getitem__, score, cluster, report, "texts")
    table = pa.concat_tables([SCHEMA.empty_table(), *parts])
    return [TextScore(*row) for row in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)]


def _score(lm: TextLM, texts: Sequence[str]) -> pa.Table:
    return pa.Table.from_pylist([lm.score(text)._asdict() for text in texts], SCHEMA)
