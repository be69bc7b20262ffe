"""How fast a run's model answers and trains here, against plain SWIFT and against the machine itself.

python run_swift.py benchmark inference outputs/first
python run_swift.py benchmark training outputs/first

Every figure is a ratio of times taken in one process, in turn, so that a busy or slow machine weighs on both
sides; each is a median of repeats.  Loading is not timed.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from swift import sft_main
from swift.callbacks import TrainerCallback, callbacks_map
from swift.infer_engine import InferRequest, TransformersEngine
from swift.pipelines.utils import prepare_model_template
from tqdm import tqdm

from workflows.core.errors import UserError
from workflows.core.files import read_jsonl
from workflows.core.rows import question
from workflows.core.run_folder import RunFolder, checkpoint_of
from workflows.core.screen import Screen
from workflows.core.statistics import ratio
from workflows.experiment.cards import MAX_NEW_TOKENS
from workflows.experiment.experiment import Experiment, load_experiment
from workflows.inference.infer import answer_batches, merge_adapter
from workflows.inference.scorer import prompt_tokens
from workflows.model.arguments import build_infer_arguments, build_sft_arguments
from workflows.model.folder import with_local_model
from workflows.model.loaded import LoadedModel, body_of
from workflows.model.machine import find_machine, memory_within_reach, products_per_second
from workflows.model.memory import fit_to_memory
from workflows.model.patches import use_plain_attention_for_short_rows
from workflows.tuning.callbacks import RUN_WATCH, Plan, register_watch

PLAIN_SHARE = 4  # SWIFT one row at a time is timed on every fourth row
WARM_UP_STEPS = 1  # of a training: the first one builds what the others reuse
CLOCK = "benchmark_clock"

Figures = dict[str, Any]


def _experiment_in_words(run: RunFolder) -> Experiment:
    """The run's experiment, its model ready; a UserError where a head answers, which writes no words."""
    experiment = load_experiment(run.experiment)
    if experiment.has_head:
        raise UserError(f"{run.path}: has a head; benchmark a run whose answers are words.")
    return with_local_model(experiment)


def benchmark_inference(run: RunFolder, rows: int, repeats: int, screen: Screen) -> Figures:
    """Seconds that `rows` test rows take: ours, SWIFT's engine in batches of 16 and one by one, and the bare
    forward pass of the merged model over the same tokens without padding.

    Also the rows where SWIFT's outputs (batches of 16) are not ours, with how nearly the model was undecided.
    """
    experiment = _experiment_in_words(run)
    machine = find_machine()
    adapter = checkpoint_of(run)
    arguments = build_infer_arguments(experiment, machine, run.split("test"), run.path / "none", adapter)
    request = arguments.get_request_config()
    test = read_jsonl(run.split("test"))[:rows]
    tuned, template = prepare_model_template(arguments)
    merged = merge_adapter(deepcopy(tuned))
    use_plain_attention_for_short_rows(merged)
    requests = [InferRequest(messages=question(row)) for row in test]
    prompts = [prompt_tokens(template, row) for row in test]
    packed = _packed([token for prompt in prompts for token in prompt], len(test), merged.device)
    outputs: dict[str, list[str]] = {}

    def ours() -> None:
        answers = [
            a for batch in answer_batches(merged, template, test, experiment.labels, request) for a in batch
        ]
        by_id = {answer["id"]: answer["output"] for answer in answers}
        outputs["ours"] = [by_id[row["id"]] for row in test]

    def swift(size: int, asked: list[InferRequest]) -> list[str]:
        engine = TransformersEngine(tuned, template=template, max_batch_size=size)
        return [each.choices[0].message.content for each in engine.infer(asked, request, use_tqdm=False)]

    def batches_of_16() -> None:
        outputs["swift"] = swift(16, requests)

    def one_by_one() -> None:
        swift(1, requests[::PLAIN_SHARE])

    def bare() -> None:
        with torch.no_grad():
            for ids in packed:
                merged.model(input_ids=ids)

    seconds = _in_turn(
        {"ours": ours, "swift_16": batches_of_16, "swift_1": one_by_one, "bare": bare}, repeats, screen
    )
    seconds["swift_1"] = [each * len(test) / len(requests[::PLAIN_SHARE]) for each in seconds["swift_1"]]
    unlike = [
        {"id": row["id"], "ours": a, "swift": b, "smallest_lead": smallest_lead(merged, template, prompt)}
        for row, prompt, a, b in zip(test, prompts, outputs["ours"], outputs["swift"], strict=True)
        if a != b
    ]
    return {
        **_about(experiment, machine, len(test), sum(map(len, prompts))),
        "seconds": seconds,
        "ratios": {
            "SWIFT, batches of 16 / ours": ratio(seconds["swift_16"], seconds["ours"]),
            "SWIFT, row by row / ours": ratio(seconds["swift_1"], seconds["ours"]),
            "ours / bare forward pass": ratio(seconds["ours"], seconds["bare"]),
        },
        "outputs_unlike_swift": unlike,
    }


def benchmark_training(run: RunFolder, steps: int, repeats: int, screen: Screen) -> Figures:
    """Seconds of `steps` training steps after the first, evaluation left out: ours, and SWIFT's with the
    preset as it is; and the time that the matrix products alone need at this machine's best speed: of all
    tokens, and of those that ours computes, a beginning that rows have in common once.
    """
    experiment = _experiment_in_words(run)
    machine = find_machine()
    clocks: dict[str, list[float]] = {"ours": [], "swift": []}
    losses: dict[str, list[float]] = {"ours": [], "swift": []}
    tokens: list[int] = []
    computed: list[int] = []
    limits: dict[str, list[float]] = {"all tokens": [], "computed tokens": []}
    for _ in range(repeats):
        for name, clock in clocks.items():
            with screen.progress(name, total=1) as bar:
                measured = _train(run, experiment, machine, steps, name == "swift", bar)
            clock.append(sum(measured["seconds"]))
            losses[name] = measured["losses"]
            tokens, body = measured["tokens"], measured["body_parameters"]
            computed = measured["computed"] if name == "ours" else computed
        speed = products_per_second(machine.torch_dtype, machine.device)
        limits["all tokens"].append(4 * body * sum(tokens) / speed)
        limits["computed tokens"].append(4 * body * sum(computed) / speed)
    seconds = {**clocks, **{f"products of {name}": each for name, each in limits.items()}}
    return {
        **_about(experiment, machine, len(tokens), sum(tokens)),
        "seconds": seconds,
        "ratios": {
            "SWIFT / ours": ratio(seconds["swift"], seconds["ours"]),
            **{
                f"ours / matrix products of {name}": ratio(seconds["ours"], each)
                for name, each in limits.items()
            },
        },
        "largest_difference_of_a_loss": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
    }


def _train(
    run: RunFolder, experiment: Experiment, machine: Any, steps: int, plain: bool, bar: tqdm
) -> Figures:
    """Train for some steps in a folder of its own; seconds, losses and tokens of those after the first."""
    measured: Figures = {"seconds": [], "losses": [], "tokens": [], "computed": []}

    class Clock(TrainerCallback):
        """Notes when steps begin and end, and what they were given."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            layers = {name: each.numel() for name, each in model.named_parameters() if not each.requires_grad}
            measured["body_parameters"] = sum(
                count
                for name, count in layers.items()
                if "embed_tokens" not in name and "lm_head" not in name
            )
            model.register_forward_pre_hook(self._count, with_kwargs=True)
            body_of(model).layers[0].register_forward_pre_hook(self._count_computed, with_kwargs=True)

        def _count(self, model: Any, given: Any, named: dict[str, Any]) -> None:
            if model.training:
                present = named.get("attention_mask")  # rows packed into one have none
                measured["tokens"][-1] += (
                    named["input_ids"].numel() if present is None else int(present.sum())
                )

        def _count_computed(self, layer: Any, given: Any, named: dict[str, Any]) -> None:
            if layer.training:
                hidden = given[0] if given else named["hidden_states"]
                measured["computed"][-1] += hidden.shape[0] * hidden.shape[1]

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            measured["tokens"].append(0)
            measured["computed"].append(0)
            self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _wait_for_gpu()
            measured["seconds"].append(time.perf_counter() - self.begun)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                measured["losses"].append(logs["loss"])

    callbacks_map[CLOCK] = Clock
    with tempfile.TemporaryDirectory() as folder:
        ready, piece_tokens = experiment, None
        if not plain:
            ready, piece_tokens = fit_to_memory(run, experiment, machine, memory_within_reach(machine.device))
        fitted = build_sft_arguments(run, ready, machine)
        own = fitted.training_args
        own.output_dir = fitted.output_dir = folder
        own.max_steps, own.logging_steps = steps + WARM_UP_STEPS, 1
        own.eval_strategy = own.save_strategy = "no"
        own.load_best_model_at_end = False
        if plain:  # as `swift sft` takes the preset: what the machine changes for speed is undone
            own.gradient_checkpointing = bool(experiment.preset.get("gradient_checkpointing", True))
            own.callbacks = [*(own.callbacks or []), CLOCK]
        else:
            register_watch(bar, Plan(lambda model, template: {}, piece_tokens, True, 0.0))
            own.callbacks = [*(own.callbacks or []), RUN_WATCH, CLOCK]
        with contextlib.nullcontext() if plain else LoadedModel().reused():
            sft_main(fitted)
    return {
        **measured,
        **{name: measured[name][WARM_UP_STEPS:] for name in ("seconds", "tokens", "computed")},
    }


def _in_turn(works: dict[str, Callable[[], None]], repeats: int, screen: Screen) -> dict[str, list[float]]:
    """Seconds of each work, `repeats` times, one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with screen.progress("benchmark", total=repeats * len(works)) as bar:
        for _ in range(repeats):
            for name, work in works.items():
                _wait_for_gpu()
                start = time.perf_counter()
                work()
                _wait_for_gpu()
                seconds[name].append(time.perf_counter() - start)
                bar.update()
    return seconds


def _wait_for_gpu() -> None:
    """Until what was started on a GPU is done: launching is not computing."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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


def _about(experiment: Experiment, machine: Any, rows: int, tokens: int) -> Figures:
    about = {
        "dataset": experiment.dataset.name,
        "model": experiment.model.name,
        "rows": rows,
        "tokens": tokens,
    }
    return {**about, "device": f"{machine.device} ({machine.name})", "torch_dtype": machine.torch_dtype}
