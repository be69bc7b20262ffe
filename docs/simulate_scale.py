"""A day of many reviews on many GPUs, minute by minute, for figures of your own; more in docs/en/scale.md.

python docs/simulate_scale.py --gpus 40

Reviews are cut into shards by their offset, each a task of one GPU.  A GPU that fails comes back after a
while; what it had not handed in is answered again by another.  Nothing here was measured: it is arithmetic
on the arguments, whose defaults scale.md explains.
"""

import argparse
from dataclasses import dataclass

import numpy as np

MINUTES = 24 * 60


@dataclass(frozen=True)
class Day:
    """What came of a day."""

    capacity: float  # reviews a second, of one GPU
    busiest: float  # reviews a second that come in the busiest minute
    wait: np.ndarray  # seconds until a review that comes in this minute is answered, (minutes,)
    failures: int
    again: float  # reviews that were answered twice
    left: float  # reviews that wait when the day ends


def reviews_a_second(flops: float, utilisation: float, parameters: float, tokens: float) -> float:
    """Reviews that one GPU reads in a second: two operations a parameter and token (Kaplan et al. 2020)."""
    return flops * utilisation / (2 * parameters * tokens)


def simulate(asked: argparse.Namespace) -> Day:
    """One day; reviews wait in one queue, from which each GPU takes shards."""
    chance = np.random.default_rng(asked.seed)
    one = reviews_a_second(asked.tflops * 1e12, asked.utilisation, asked.parameters, asked.tokens)
    phase = 2 * np.pi * (np.arange(MINUTES) / MINUTES - 0.25)
    coming = asked.reviews / MINUTES * (1 + asked.swing * np.sin(phase))  # a minute; their sum is `reviews`
    failing = 1 - np.exp(-1 / (60 * asked.hours_between_failures))  # of a GPU, in a minute
    back_at = np.zeros(asked.gpus)
    queue, again, failures, wait = 0.0, 0.0, 0, np.zeros(MINUTES)
    for minute in range(MINUTES):
        up = back_at <= minute
        failed = up & (chance.random(asked.gpus) < failing)
        back_at[failed] = minute + asked.minutes_to_return
        failures += int(failed.sum())
        lost = failed.sum() * asked.shard / 2  # a shard is half done on average
        again += lost
        able = 60 * one * (up & ~failed).sum()
        queue = max(0.0, queue + coming[minute] + lost - able)
        wait[minute] = 60 * queue / able if able else np.inf
    return Day(one, float(coming.max()) / 60, wait, failures, again, queue)


def main() -> None:
    """Simulate the day that the command line describes, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, meaning in (
        ("gpus", 40, "GPUs, each with a shard at a time"),
        ("reviews", 1e9, "reviews that come in the day"),
        ("swing", 0.6, "how far the busiest minute is above the mean, as a share of it"),
        ("tokens", 40.0, "tokens to read of a review, without what all prompts begin with"),
        ("parameters", 0.36e9, "of the model, without its embedding"),
        ("tflops", 70.0, "peak of a GPU in bf16"),
        ("utilisation", 0.25, "share of the peak that is reached"),
        ("price", 1.006, "of a GPU for an hour"),
        ("shard", 50_000.0, "reviews that are handed in together"),
        ("hours_between_failures", 50_000.0, "of one GPU, on average"),
        ("minutes_to_return", 30.0, "until another stands in"),
        ("seed", 0, "of the failures"),
    ):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(
            flag, type=type(default), default=default, help=f"{meaning} (default: {default:g})"
        )
    asked = parser.parse_args()
    for name in vars(asked).keys() - {"seed", "swing"}:
        if not 0 < getattr(asked, name) < np.inf:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not 0 <= asked.swing <= 1:
        parser.error("--swing must be from 0 to 1")
    day = simulate(asked)
    needed = int(np.ceil(day.busiest / day.capacity))
    print(f"one GPU reads        {day.capacity:14,.0f} reviews a second")
    print(f"the busiest minute   {day.busiest:14,.0f} reviews a second: {needed} GPUs without a queue")
    print(f"waiting, median      {np.median(day.wait):14,.0f} s")
    print(f"waiting, longest     {day.wait.max():14,.0f} s")
    print(f"waiting at the end   {day.left:14,.0f} reviews")
    print(f"failures             {day.failures:14,d}, {day.again:,.0f} reviews answered twice")
    print(f"price of the day     {asked.gpus * 24 * asked.price:14,.0f}")
    print(f"price of 1,000,000   {asked.gpus * 24 * asked.price / asked.reviews * 1e6:14,.2f}")


if __name__ == "__main__":
    main()
