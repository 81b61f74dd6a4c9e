"""`twist generate` with prompts of text and speech, for models that know both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jobs import speech_options
from jobs.command import add_option
from model.lm.modality import OUTPUT_MODALITIES, OutputModality
from model.lm.sampling_config import MAX_NEW_TOKENS, SamplingConfig
from pipeline.errors import TwistError
from pipeline.printable import printable
from pipeline.speaking.few_shot import ANSWERED_IN, TASKS, Task, draw_shots, few_shot_prompt, read_examples
from pipeline.speaking.names import EMBEDDED_CODEBOOK
from pipeline.speaking.prompts import PromptPart, parse_prompt, read_prompts

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from jobs.recipe import Recipe
    from model.code_model import CodeModel

# As in the paper's ASR and TTS.
SHOTS = 10
# Options of `twist generate` that say how units alone are continued, and their defaults.
OF_UNITS_ALONE: dict[str, object] = {
    "input_file": None,
    "held_out": None,
    "prompt_duration_sec": 3.0,
    "max_units": SamplingConfig.max_units,
    "max_times_prompt": SamplingConfig.max_times_prompt,
    "max_duration_sec": None,
    "min_continuation_sec": None,
    "max_continuation_sec": None,
    "pauses_of": None,
    "picture": False,
}


def add_options(parser: ArgumentParser) -> None:
    """Adds --prompt, --prompts, --output-modality and --max-new-tokens."""
    text = (
        "In place of --input-file, for a model of text and speech: prompts of both in any order, each part behind "
        '[TEXT] or [SPEECH], as in "[TEXT] she said [SPEECH] file.wav". For several, --output-file is a folder.'
    )
    add_option(parser, "prompt", nargs="+", type=str, help=text)
    text = 'The same from a JSONL file, with lines as {"prompt": [{"text": "she said"}, {"audio": "file.wav"}]}.'
    add_option(parser, "prompts", type=str | None, help=text)
    text = f"What these prompts are continued in: {', '.join(OUTPUT_MODALITIES)}. Default: any."
    add_option(parser, "output-modality", type=OutputModality | None, help=text)
    text = f"Tokens that are written behind such a prompt, at most. Default: {MAX_NEW_TOKENS}."
    add_option(parser, "max-new-tokens", type=int | None, help=text)
    text = f"Show how this is done before each prompt, and keep the answer alone: {', '.join(TASKS)}; see --examples."
    add_option(parser, "task", type=Task | None, help=text)
    text = 'Examples to draw from for --task: lines as {"audio": "clip.wav", "text": "...", "label": "..."}.'
    add_option(parser, "examples", type=str | None, help=text)
    text = "Examples that are shown, all labels alike; drawn by --seed. Default: 10."
    add_option(parser, "shots", type=int | None, help=text)
    add_option(parser, "stop", type=str | None, help='For --task tts: a recording of the word "stop".')
    text = "For prompts with speech and an expressive model: its pitch model. Default: the run's."
    add_option(parser, "pitch-model", type=str | None, help=text)
    add_option(parser, "style-model", type=str | None, help="The same: its style model. Default: the run's.")


def are_given(given: Namespace) -> bool:
    """Whether the command line has prompts of text and speech.

    Raises:
        TwistError: it has not, but options for them.
    """
    if given.prompt or given.prompts is not None:
        return True
    for name in (
        "output_modality",
        "max_new_tokens",
        "task",
        "examples",
        "shots",
        "stop",
        "pitch_model",
        "style_model",
    ):
        if getattr(given, name) is not None:
            raise TwistError(f"{name} is for prompts of text and speech: give --prompt or --prompts")
    return False


def continue_(
    given: Namespace, recipe: Recipe, sampling: SamplingConfig, source: str, codebook: str | None, run: str
) -> None:
    """Continues the prompts; prints text, names of recordings, and how long it took.

    Args:
        given: The command line.
        recipe: The run's, which names the models of pitch and style.
        sampling: How to draw.
        source: The model.
        codebook: The codebook that the command line names.
        run: The run that both belong to; "" if none.

    Raises:
        TwistError: a prompt, model or vocoder is missing, or they do not fit together.
    """
    from pipeline.speaking.expressive import StreamTokenizer
    from pipeline.speaking.speech_lm import load_lm
    from pipeline.speaking.text_and_speech import TextAndSpeechLM, continue_prompts
    from pipeline.speaking.tokenizer import Tokenizer, find_codebook

    prompts = _prompts(given)
    modality: OutputModality = given.output_modality or "any"
    if given.task is not None:
        prompts, modality = _with_examples(given, prompts), ANSWERED_IN[given.task]
    max_new_tokens = MAX_NEW_TOKENS if given.max_new_tokens is None else given.max_new_tokens
    if max_new_tokens < 1:
        raise TwistError(f"max_new_tokens is {max_new_tokens}; it must be above 0")
    lm = load_lm(source, given.device, given.dtype)
    model = TextAndSpeechLM(lm)
    hears = any(part.modality == "speech" for prompt in prompts for part in prompt)
    book = find_codebook(codebook or run or EMBEDDED_CODEBOOK) if hears or modality != "text" else None
    if book is not None:
        lm.require_codebook(book, codebook or run or "the embedded one")
    tokenizer: Tokenizer | StreamTokenizer | None = None
    if book is not None and hears:
        tokenizer = Tokenizer(book, given.device)
        if lm.vocabulary.is_expressive:
            tokenizer = StreamTokenizer(tokenizer, *_code_models(given, recipe), lm.vocabulary)
    voice = speech_options.voice_for(book, given, run) if book is not None and modality != "text" else None

    stopwatch = speech_options.Stopwatch()
    audio_s = 0.0
    for continuation in continue_prompts(
        prompts,
        _outputs(given.output_file, len(prompts)),
        model,
        book,
        tokenizer,
        voice,
        modality,
        sampling,
        max_new_tokens=max_new_tokens,
        num_continuations=given.num_continuations,
        batch_size=given.batch_size,
        task=given.task,
        stop=given.stop,
    ):
        continuation.write()
        print(f"{continuation.output}: {printable(continuation.text)}")
        audio_s += continuation.duration_s
    print(f"generate   {len(prompts)} prompts: {stopwatch.summary(audio_s)}")


def _code_models(given: Namespace, recipe: Recipe) -> tuple[CodeModel, CodeModel]:
    """The models of pitch and of style that an expressive model's prompts are heard with."""
    from pipeline.speaking.code_models import load_code_models

    pitch = _named("pitch", given.pitch_model or recipe.pitch.model)
    style = _named("style", given.style_model or recipe.style.model)
    models = load_code_models(pitch, style, given.device, recipe.pitch.extractor)
    return models["pitch"], models["style"]


def _named(name: str, model: str | None) -> str:
    if model is None:
        raise TwistError(
            f"the model is expressive, and no {name} model is named to hear the prompt with: give --{name}-model, or "
            f"{name}.model in the recipe"
        )
    return model


def _prompts(given: Namespace) -> list[list[PromptPart]]:
    for name, default in OF_UNITS_ALONE.items():
        if getattr(given, name) != default:
            raise TwistError(f"{name} is for continuing speech alone: leave it out, or --prompt and --prompts")
    if given.prompt and given.prompts is not None:
        raise TwistError("give --prompt, or --prompts FILE.jsonl, not both")
    return read_prompts(Path(given.prompts)) if given.prompts is not None else list(map(parse_prompt, given.prompt))


def _with_examples(given: Namespace, prompts: list[list[PromptPart]]) -> list[list[PromptPart]]:
    if given.examples is None:
        raise TwistError(f"--task {given.task} needs --examples FILE.jsonl to draw from")
    if given.output_modality not in (None, ANSWERED_IN[given.task]):
        raise TwistError(f"{given.task} is answered in {ANSWERED_IN[given.task]}; leave --output-modality out")
    examples = read_examples(Path(given.examples))
    num_shots = SHOTS if given.shots is None else given.shots
    if num_shots < 1:
        raise TwistError(f"shots is {num_shots}; it must be above 0")
    shown = []
    for prompt in prompts:
        if len(prompt) != 1:
            raise TwistError(
                f"with --task a prompt is one recording or one text, which is asked; not {len(prompt)} parts"
            )
        shots = draw_shots(examples, num_shots, given.seed, prompt[0])
        shown.append(few_shot_prompt(given.task, shots, prompt[0], given.stop))
    return shown


def _outputs(output_file: str, num_prompts: int) -> list[Path]:
    if num_prompts == 1:
        return [Path(output_file).with_suffix("")]
    return [Path(output_file) / str(number) for number in range(num_prompts)]
