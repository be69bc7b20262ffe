"""Label values as they are compared, and what --labels means."""

import re

from workflows.core.errors import UserError
from workflows.experiment.cards import Label

INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # marks that str.strip leaves, though nobody sees them
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


def parse_labels(text: str) -> tuple[tuple[Label, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Labels in index order, the file's values of each, and the values whose rows are left out.

    "差评,好评": the file holds these names, or 0 and 1.  "1=差评,2=差评,3=,5=好评": values and their names; a
    value without a name is left out.
    """
    items = [item.strip() for item in re.split("[,，]", text) if item.strip()]
    values: dict[str, list[str]] = {}
    left_out: list[str] = []
    if any("=" in item for item in items):
        for item in items:
            value, equals, name = (part.strip() for part in item.partition("="))
            if not equals or not value:
                raise UserError(
                    f"--labels {text}: {item!r} is not VALUE=NAME; give all labels that way, or none."
                )
            (values.setdefault(name, []) if name else left_out).append(normalise_label(value))
    else:
        numeric = any(item.isdigit() for item in items)
        for index, name in enumerate(items):
            if name in values:
                raise UserError(f"--labels {text}: {name!r} is named twice.")
            values[name] = [name] if numeric else [name, str(index)]
    every = [value for group in values.values() for value in group] + left_out
    twice = next((value for value in every if every.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"--labels {text}: value {twice!r} is named twice.")
    if len(values) < 2:
        raise UserError(f"--labels {text}: at least two labels are needed.")
    return (
        tuple(Label(name, name) for name in values),
        {name: tuple(group) for name, group in values.items()},
        tuple(left_out),
    )


def normalise_label(value: str) -> str:
    """A label value as compared: stripped, and 1.0 as 1."""
    value = value.strip().strip(INVISIBLE).strip()
    whole = WHOLE_NUMBER.fullmatch(value)
    return whole.group(1) if whole else value


def labels_flag(mapping: str) -> str:
    """--labels with `mapping`, written so that a value like -1 is not taken for a flag."""
    return f"--labels={mapping}" if mapping.startswith("-") else f"--labels {mapping}"
