"""What a frozen model knows of a prompt, read once for all runs of a study that ask it."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from workflows.core.files import fingerprint
from workflows.experiment.job import Job
from workflows.inference.features import Frame, probed_layers, read_features
from workflows.inference.scorer import Tokens
from workflows.model.loaded import body_of

AT_ONCE = 256  # rows, which is 13 MB of a Qwen of 0.5 B


def recall_features(
    job: Job, model: Any, prompts: list[Tokens], frame: Frame
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """`read_features`, but what another run of the study has read of a prompt comes first, unread.

    It is the same but for the last bits, since in another batch a row is padded otherwise.  `job.features`:
    the folder where it is kept, a file for each model, by its weights; None: it is not.
    """
    if job.features is None:
        yield from read_features(model, prompts, frame)
        return
    shape = (len(probed_layers(model)), 2 * body_of(model).config.hidden_size)
    record = np.dtype([("prompt", "V32"), ("features", "<f4", shape)])
    kept = job.features / f"{_weights(model)}.bin"
    kept.parent.mkdir(parents=True, exist_ok=True)
    keys = [sha256(repr((prompt, frame.own(prompt))).encode()).digest() for prompt in prompts]
    count = kept.stat().st_size // record.itemsize if kept.exists() else 0  # a torn record is left out
    known = np.memmap(kept, record, "r", shape=(count,)) if count else np.empty(0, record)
    at = {key.tobytes(): index for index, key in enumerate(known["prompt"])}
    recalled = [row for row, key in enumerate(keys) if key in at]
    for start in range(0, len(recalled), AT_ONCE):
        yield [(row, known["features"][at[keys[row]]]) for row in recalled[start : start + AT_ONCE]]
    left = [row for row, key in enumerate(keys) if key not in at]
    with open(kept, "r+b" if kept.exists() else "w+b") as file:
        file.seek(count * record.itemsize)
        file.truncate()
        for batch in read_features(model, [prompts[row] for row in left], frame):
            found = [(left[index], features) for index, features in batch]
            file.write(np.array([(keys[row], features) for row, features in found], record).tobytes())
            file.flush()
            yield found


def _weights(model: Any) -> str:
    """A hash of a model's weights, by their sums, which take a second where all bytes take several."""
    sums = {
        name: [str(each.dtype), each.device.type, each.detach().sum(dtype=torch.float64).item()]
        for name, each in model.named_parameters()
    }
    return fingerprint(sums)
