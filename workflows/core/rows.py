"""A row of a data file: what is asked, and what is said."""

from typing import Any

Row = dict[str, Any]
Rows = list[Row]


def conversation(row: Row) -> list[dict[str, str]]:
    """The turns of a row of a data file, whichever of SWIFT's formats it is in."""
    if "messages" in row:
        return row["messages"]
    return [
        *([{"role": "system", "content": row["system"]}] if "system" in row else []),
        {"role": "user", "content": row["query"]},
        *([{"role": "assistant", "content": row["response"]}] if "response" in row else []),
    ]


def question(row: Row) -> list[dict[str, str]]:
    """The turns of a row of a data file without the answer: what the model is asked."""
    return [turn for turn in conversation(row) if turn["role"] != "assistant"]
