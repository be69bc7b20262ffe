"""How fast a run's model answers and trains here, against plain SWIFT and against the machine itself.

python run_swift.py benchmark inference outputs/first
python run_swift.py benchmark training outputs/first
python run_swift.py benchmark pipeline outputs/first

Every figure is a ratio of times taken in turn, so that a busy or slow machine weighs on both sides; each is a
median of repeats.  Loading is timed in the pipeline only, whose commands have a process each.
"""

import contextlib
import shutil
import sys
from copy import deepcopy
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from swift import InferArguments, SftArguments, sft_main
from swift.callbacks import TrainerCallback, callbacks_map
from swift.infer_engine import InferRequest, TransformersEngine
from swift.pipelines.utils import prepare_model_template
from tqdm import tqdm

from workflows.commands.benchmark.without_model import OURS, in_turn, run_command
from workflows.core.costs import costs_of
from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.rows import question
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.experiment.recipes import Distillation, LabelLoss, Plain, Preference
from workflows.inference.features import Frame, read_features
from workflows.inference.infer import answer_batches, merge_adapter
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import (
    INFER_NAMES,
    SFT_NAMES,
    SHARED,
    build_infer_arguments,
    build_sft_arguments,
    command_line_of,
    merged_arguments,
)
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel
from workflows.model.machine import (
    Machine,
    dtype_of_answers,
    find_machine,
    is_full,
    memory_within_reach,
    now,
    products_per_second,
)
from workflows.model.memory import fit_to_memory, read_sizes
from workflows.model.patches import use_plain_attention_for_short_rows
from workflows.tuning.callbacks import RUN_WATCH, Plan, register_watch

PLAIN_SHARE = 4  # SWIFT one row at a time is timed on every fourth row
WARM_UP_STEPS = 1  # of a training: the first one builds what the others reuse
CLOCK = "benchmark_clock"
SWIFT = str(Path(sys.executable).with_name("swift"))
# What a run has not before its model is loaded: the stages that write these are done again.
LATER = (
    "sft",
    "logs",
    "figures",
    "report.*",
    "training.json",
    "scores.json",
    "probe*",
    "zero_shot*.jsonl",
    "threshold.json",
    "tuned.jsonl",
)

Figures = dict[str, Any]


def benchmark_inference(run: RunFolder, rows: int, repeats: int, screen: Screen) -> Figures:
    """Seconds that `rows` test rows take: ours, the probe's features, SWIFT's engine in batches of 16 and one
    by one, and the bare forward pass of the merged model over the same tokens without padding, with and
    without those that all rows begin with.

    Also the rows where SWIFT's outputs (batches of 16) are not ours, with how nearly the model was undecided,
    and what the probe of the run took of its tuning and answering.
    """
    experiment, machine = experiment_in_words(run), find_machine()
    test = read_jsonl(run.split("test"))[:rows]
    arguments = build_infer_arguments(
        experiment, machine, run.split("test"), run.path / "none", checkpoint_of(run)
    )
    request = arguments.get_request_config()
    tuned, template = prepare_model_template(arguments)
    merged = merge_adapter(deepcopy(tuned))
    use_plain_attention_for_short_rows(merged)
    requests = [InferRequest(messages=question(row)) for row in test]
    prompts = [prompt_tokens(template, row) for row in test]
    frame = Frame.of(prompts)
    own = [prompt[len(frame.beginning) :] for prompt in prompts]
    packed, packed_own = (
        _packed(list(chain.from_iterable(each)), len(test), merged.device) for each in (prompts, own)
    )
    outputs: dict[str, dict[str, str]] = {}

    def ours() -> None:
        batches = answer_batches(merged, template, test, experiment.labels, request)
        outputs["ours"] = {answer["id"]: answer["output"] for batch in batches for answer in batch}

    def swift(size: int, step: int) -> None:
        engine = TransformersEngine(tuned, template=template, max_batch_size=size)
        answers = engine.infer(requests[::step], request, use_tqdm=False)
        said = [answer.choices[0].message.content for answer in answers]
        outputs[f"swift_{size}"] = dict(zip((row["id"] for row in test[::step]), said, strict=True))

    def features() -> None:
        for _ in read_features(merged, prompts, frame):
            pass

    def bare(batches: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for ids in batches:
                merged.model(input_ids=ids)

    works = {
        "ours": ours,
        "swift_16": lambda: swift(16, 1),
        "features": features,
        "swift_1": lambda: swift(1, PLAIN_SHARE),
        "bare": lambda: bare(packed),
        "bare_own": lambda: bare(packed_own),
    }
    seconds = in_turn(works, repeats, screen)
    seconds["swift_1"] = [each * len(test) / len(outputs["swift_1"]) for each in seconds["swift_1"]]
    unlike = [
        {"id": id, "ours": said, "swift": other, "smallest_lead": smallest_lead(merged, template, prompt)}
        for (id, other), prompt in zip(outputs["swift_16"].items(), prompts, strict=True)
        if (said := outputs["ours"][id]) != other
    ]
    return {
        **about(experiment, machine, {"rows": len(test)}, sum(map(len, prompts))),
        "seconds": seconds,
        "ratios": {
            "SWIFT, batches of 16 / ours": ratio(seconds["swift_16"], seconds["ours"]),
            "SWIFT, row by row / ours": ratio(seconds["swift_1"], seconds["ours"]),
            "ours / bare forward pass": ratio(seconds["ours"], seconds["bare"]),
            "SWIFT, batches of 16 / probe": ratio(seconds["swift_16"], seconds["features"]),
            "probe / bare forward pass, common beginning left out": ratio(
                seconds["features"], seconds["bare_own"]
            ),
        },
        "seconds_of_each_system": costs_of(run),
        "outputs_unlike_swift": unlike,
    }


def benchmark_training(run: RunFolder, steps: int, repeats: int, screen: Screen) -> Figures:
    """Seconds of `steps` training steps after the first, evaluation left out: ours, and SWIFT's with the
    preset as it is; and the time that the matrix products of all tokens alone need at this machine's best
    speed.
    """
    experiment, machine = experiment_in_words(run), find_machine()
    _refuse_other_training(run, experiment)
    body = read_sizes(Path(experiment.model.arguments["model"])).body
    products = "products of all tokens"
    seconds: dict[str, list[float]] = {"ours": [], "swift": [], products: []}
    with screen.progress("benchmark", total=1) as bar:
        for _ in range(repeats):
            ours, plain = (_train(run, experiment, machine, steps, each, bar) for each in (False, True))
            seconds["ours"].append(sum(ours["seconds"]))
            seconds["swift"].append(sum(plain["seconds"]))
            speed = products_per_second(_dtype(experiment, machine), machine.device)
            each = 6 if is_full(experiment.arguments) else 4  # forward, back, all weights
            seconds[products].append(each * body * sum(plain["tokens"]) / speed)
    return {
        **about(experiment, machine, {"steps": steps}, int(sum(plain["tokens"]))),
        "seconds": seconds,
        "ratios": {
            "SWIFT / ours": ratio(seconds["swift"], seconds["ours"]),
            "ours / matrix products of all tokens": ratio(seconds["ours"], seconds[products]),
        },
        "largest_difference_of_a_loss": max(
            abs(a - b) for a, b in zip(ours["losses"], plain["losses"], strict=True)
        ),
    }


def _train(
    run: RunFolder, experiment: Experiment, machine: Machine, steps: int, plain: bool, bar: tqdm
) -> dict[str, list[float]]:
    """Train for some steps in a folder of its own; losses, and of those after the first seconds and
    tokens.
    """
    seconds: list[float] = []
    tokens: list[float] = []

    class Clock(TrainerCallback):
        """Notes when steps begin and end, and how many tokens they were given."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            model.register_forward_pre_hook(self._count, with_kwargs=True)

        def _count(self, model: Any, given: Any, named: dict[str, Any]) -> None:
            present = named.get("attention_mask")  # rows packed into one have none
            tokens[-1] += named["input_ids"].numel() if present is None else int(present.sum())

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tokens.append(0)
            self.begun = now()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds.append(now() - self.begun)

    callbacks_map[CLOCK] = Clock
    with TemporaryDirectory() as folder:
        ready, piece_tokens = experiment, None
        if not plain:
            ready, piece_tokens = fit_to_memory(run, experiment, machine, memory_within_reach(machine.device))
        fitted = build_sft_arguments(run, ready, machine)
        own = fitted.training_args
        own.output_dir = fitted.output_dir = folder
        own.max_steps, own.logging_steps = steps + WARM_UP_STEPS, 1
        own.eval_strategy = own.save_strategy = "no"
        own.load_best_model_at_end, own.report_to = False, []
        own.callbacks = [*(own.callbacks or []), CLOCK]
        if plain:  # as `swift sft` takes the preset: what the machine changes for speed is undone
            own.gradient_checkpointing = bool(experiment.preset.get("gradient_checkpointing", True))
        else:
            register_watch(bar, Plan(lambda model, template: {}, piece_tokens, True, 0.0))
            own.callbacks.insert(-1, RUN_WATCH)
        with contextlib.nullcontext() if plain else LoadedModel().reused():
            history = sft_main(fitted)["log_history"]
    return {
        "seconds": seconds[WARM_UP_STEPS:],
        "tokens": tokens[WARM_UP_STEPS:],
        "losses": [entry["loss"] for entry in history if "loss" in entry],
    }


@torch.no_grad()
def smallest_lead(model: Any, template: Any, prompt: list[int]) -> float:
    """By how much the largest logit leads the second at the token of the greedy answer where it leads least;
    0 for a tie.  In 16 bits logits of 16 are 0.0625 or 0.125 apart at least: less than that decides nothing.
    """
    tokens = list(prompt)
    leads: list[float] = []
    while len(leads) < MAX_NEW_TOKENS and tokens[-1] != template.template_meta.stop_token_id:
        logits = model(input_ids=torch.tensor([tokens], device=model.device)).logits[0, -1].float()
        (first, second), (token, _) = (each.tolist() for each in logits.topk(2))
        leads.append(first - second)
        tokens.append(token)
    return min(leads)


def _packed(tokens: list[int], rows: int, device: torch.device) -> list[torch.Tensor]:
    """The tokens cut into rows of their mean length and batches of about 4,096 tokens, nothing padded."""
    width = max(1, len(tokens) // rows)
    whole = torch.tensor(tokens[: len(tokens) // width * width], device=device).view(-1, width)
    return list(whole.split(max(1, 4096 // width)))


def benchmark_pipeline(run: RunFolder, repeats: int, screen: Screen) -> dict[str, Any]:
    """Seconds of `run` with its data prepared, and of `swift infer`, `swift sft` and `swift infer` with the
    adapter, each with SWIFT's defaults beside the preset; processes' starts and loading are in both.
    """
    machine, experiment = find_machine(), experiment_in_words(run)
    _refuse_other_training(run, experiment)
    if experiment.derives_rows:
        raise UserError(f"{run.path}: method {experiment.method} makes rows to train on that SWIFT has not.")
    merged = merged_arguments(experiment, machine)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ignored = shutil.ignore_patterns(*LATER)
        copies = [shutil.copytree(run.path, folder / f"ours-{at}", ignore=ignored) for at in range(repeats)]
        chosen_by = ("metric_for_best_model", "greater_is_better")  # SWIFT's evaluations have the loss alone
        tuning = {name: value for name, value in merged.items() if name in SFT_NAMES - {*chosen_by}} | {
            "gradient_checkpointing": experiment.preset.get("gradient_checkpointing", True),
            "dataset": [str(run.split("train"))],
            "val_dataset": [str(run.split("val"))],
            "output_dir": str(folder / "sft"),
        }
        answering = {name: value for name, value in merged.items() if name in INFER_NAMES - SFT_NAMES} | {
            **{name: merged[name] for name in SHARED if name in merged},
            "val_dataset": [str(run.split("test"))],
            "max_new_tokens": MAX_NEW_TOKENS,
            "temperature": 0,
            "load_args": False,
            "result_path": str(folder / "answers.jsonl"),
        }
        sft = [SWIFT, "sft", *command_line_of(SftArguments, tuning)]
        infer = [SWIFT, "infer", *command_line_of(InferArguments, answering)]

        def infer_tuned() -> None:
            checkpoints = folder.glob("sft/*/checkpoint-*")
            newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
            whole = is_full(experiment.arguments)  # the checkpoint is a model, not an adapter
            run_command([*infer, "--model" if whole else "--adapters", str(newest)])

        works = {
            "ours": lambda: run_command([*OURS, "run", str(copies.pop())]),
            "swift infer": lambda: run_command(infer),
            "swift sft": lambda: run_command(sft),
            "swift infer, tuned": infer_tuned,
        }
        seconds = in_turn(works, repeats, screen)
    plain = [sum(times) for times in zip(*list(seconds.values())[1:], strict=True)]
    return {
        "device": f"{machine.device} ({machine.name})",
        "seconds": {**seconds, "three SWIFT commands": plain},
        "ratios": {"ours / three SWIFT commands": ratio(seconds["ours"], plain)},
    }


def _refuse_other_training(run: RunFolder, experiment: Experiment) -> None:
    """Raise UserError where a run is trained otherwise than `swift sft` does."""
    if isinstance(experiment.recipe, LabelLoss | Preference | Distillation | Plain):
        raise UserError(
            f"{run.path}: method {experiment.method} trains otherwise than SWIFT's own training, so there is "
            "nothing to compare; name a run of lora, say."
        )


def experiment_in_words(run: RunFolder) -> Experiment:
    """The run's experiment, its model ready; a UserError where a head answers, which writes no words."""
    experiment = load_experiment(run.experiment)
    if experiment.has_head:
        raise UserError(f"{run.path}: has a head; benchmark a run whose answers are words.")
    return with_local_model(experiment)


def about(experiment: Experiment, machine: Machine, counts: dict[str, int], tokens: int) -> Figures:
    """What was measured, how much of it, in rows or steps, and on what."""
    return {
        "dataset": experiment.dataset.name,
        "model": experiment.model.name,
        **counts,
        "tokens": tokens,
        "device": f"{machine.device} ({machine.name})",
        "torch_dtype": _dtype(experiment, machine),
    }


def _dtype(experiment: Experiment, machine: Machine) -> str:
    return dtype_of_answers(experiment.arguments, experiment.pinned, machine)
