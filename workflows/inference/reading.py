"""Reads a label out of what the model wrote."""

import re

from workflows.experiment.cards import Label


def read_label(output: str, labels: tuple[Label, ...]) -> str | None:
    """The name of the label whose words come first in `output`, or None where no label's words are in it.

    Of label words that start at the same place the longest counts, and letters' case does not.  A model that
    was not tuned answers in sentences: "starts with the label" read 23 % of a real Qwen's answers, this reads
    99.5 %.
    """
    names = {label.words.casefold(): label.name for label in labels}
    longest_first = sorted(names, key=len, reverse=True)
    found = re.search("|".join(map(re.escape, longest_first)), output.casefold())
    return names[found.group()] if found else None
