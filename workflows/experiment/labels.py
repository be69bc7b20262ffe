"""Label values as they are compared, and what --labels means."""

import re
import shlex

from workflows.core.errors import UserError

INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # marks that str.strip leaves, though nobody sees them
FULL_WIDTH = str.maketrans("０１２３４５６７８９．－＋", "0123456789.-+")
LABEL_CHARACTERS = 40  # a longer value is no label
SHELLS = re.compile(r"[\s'\"\\$`&|;<>()*?!#~{}\[\]]")  # what a shell does not take as it is
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


def parse_labels(text: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The labels' names in index order with the file's values of each, and the values that are left out.

    "差评,好评": the file holds these names.  "1=差评,2=差评,3=,5=好评": values and their names; a value
    without a name is left out.
    """
    items = [item.strip() for item in re.split("[,，]", text.replace("＝", "=")) if item.strip()]
    pairs: list[tuple[str, str]] = []  # value, name
    if any("=" in item for item in items):
        for item in items:
            value, equals, name = (part.strip() for part in item.partition("="))
            if not equals or not value:
                raise UserError(
                    f"--labels {text}: {item!r} is not VALUE=NAME; give all labels that way, or none."
                )
            pairs.append((normalise_label(value), name))
    else:
        pairs = [(name, name) for name in items]
    values: dict[str, tuple[str, ...]] = {}
    for value, name in pairs:
        if any(value in group for group in values.values()):
            raise UserError(f"--labels {text}: value {value!r} is named twice.")
        values[name] = (*values.get(name, ()), value)
    left_out = values.pop("", ())
    if len(values) < 2:
        raise UserError(f"--labels {text}: at least two labels are needed.")
    return values, left_out


def normalise_label(value: str) -> str:
    """A label value as compared: stripped, 1.0 as 1, and digits of full width as digits."""
    value = value.strip().strip(INVISIBLE).strip().translate(FULL_WIDTH)
    whole = WHOLE_NUMBER.fullmatch(value)
    return whole.group(1) if whole else value


def can_be_named(value: str) -> bool:
    """Whether a label value can stand in --labels."""
    return len(value) <= LABEL_CHARACTERS and value.isprintable() and not {",", "，", "="} & {*value}


def labels_flag(mapping: str) -> str:
    """--labels with `mapping`, written so that a value like -1 is not taken for a flag, nor a blank or a
    bracket for the shell's.
    """
    typed = shlex.quote(mapping) if SHELLS.search(mapping) else mapping
    return f"--labels={typed}" if mapping.startswith("-") else f"--labels {typed}"
