"""Which encoding a text file is in: UTF-8, GB18030, Big5, or UTF-16 with its mark; else the line that does
not fit.

Any bytes of Big5 are bytes of GB18030 too, so of these two the one counts in which more of the characters are
common ones: of 548 pieces of three real reviews each, in simplified and traditional script, none was taken
for the other; of single reviews 0.6 % at most were (traditional script in GB18030).

Not covered: other encodings of the East, whose bytes may be common characters of GB18030; single rows that
were damaged before the file was saved.
"""

import codecs
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path

from workflows.core.errors import UserError

# A file with fewer undecodable characters than this share is damaged UTF-8, not another encoding.
DAMAGED_SHARE = 0.01
BLOCK_BYTES = 1 << 20
RARE_SHARE = 0.25  # fewer common characters than this are no text; single reviews had 0.29 and more
SHARE_OF_TEXT = 0.6  # more are: eight reviews had 0.96 and more, read in a wrong encoding 0.39 and less
LOST_SHARE = 0.05  # of U+FFFD: a file of them cannot be mended any more
LOST = ("\ufffd", "锟斤拷")  # the second is the first, saved as UTF-8 and read as GB18030
HINT = "save the file as UTF-8"
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What a text was read as, and what it was, before it was saved as UTF-8.
READ_WRONGLY = (("gb18030", "utf-8"), ("cp1252", "utf-8"), ("latin-1", "utf-8"), ("latin-1", "gb18030"))
# First and last byte of the pairs for marks and for the more common half of the characters.
COMMON = {
    "gb18030": (((0xA1, 0xA3), (0xA1, 0xFE)), ((0xB0, 0xD7), (0xA1, 0xFE))),
    "cp950": (((0xA1, 0xC6), (0x40, 0x7E)), ((0xA1, 0xC6), (0xA1, 0xFE))),
}
OTHER_FILES = {
    b"PK\x03\x04": "an Excel or ZIP file: give an XLSX file its ending .xlsx, unpack a ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save it as .xlsx or as CSV in UTF-8",
    b"PAR1": "a Parquet file: give it the ending .parquet",
    b"\x1f\x8b": "packed with gzip: unpack it",
    b"%PDF": "a PDF file: save its table as CSV in UTF-8",
}


def find_encoding(path: Path) -> str:
    """The encoding of a text file.

    Raises UserError, which names the line where there is one, for a file in no encoding that is read, or in
    two of them, for one that holds NUL bytes, is no text file, or was saved after it had been read wrongly.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    for mark, what in OTHER_FILES.items():
        if start.startswith(mark):
            raise UserError(f"{path}: is {what}.")
    if start.startswith(UTF16_MARKS):
        _refuse_misfit(path, "utf_16", "neither UTF-8 nor UTF-16")
        _refuse_nul(path, "utf_16")
        return "utf_16"
    _refuse_nul(path, "latin-1")  # which takes all bytes
    misfit = _first_misfit(path, "utf-8")
    if misfit is None:
        _refuse_read_wrongly(path)
        return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    with open(path, encoding="utf-8", errors="replace") as text:
        damaged = total = 0
        while part := text.read(BLOCK_BYTES):
            damaged, total = damaged + part.count("\ufffd"), total + len(part)
    if damaged < DAMAGED_SHARE * total:
        raise UserError(
            f"{path}, line {misfit[0]}: byte 0x{misfit[1]:02x} is not UTF-8, the rest of the file is; "
            "mend that line or save the file as UTF-8 again."
        )
    _refuse_mixture(path, misfit[0])
    # Hong Kong's Big5 holds more characters, but other marks than Windows has in the places that both know.
    big5 = next((each for each in ("cp950", "big5hkscs") if _first_misfit(path, each) is None), None)
    chinese = _share(_sample(path, "gb18030"), "gb18030")
    taiwanese = 0.0 if big5 is None else _share(_sample(path, big5), "cp950")
    if big5 is not None and taiwanese > max(chinese, RARE_SHARE):
        return big5
    _refuse_misfit(path, "gb18030", "neither UTF-8 nor GB18030")
    if chinese < RARE_SHARE:
        raise UserError(f"{path}, line {misfit[0]}: is neither UTF-8 nor Chinese in GB18030 or Big5; {HINT}.")
    return "gb18030"


def _blocks(path: Path, encoding: str, errors: str = "strict") -> Iterator[str]:
    with open(path, "rb") as file:
        yield from codecs.iterdecode(iter(partial(file.read, BLOCK_BYTES), b""), encoding, errors)


def _first_misfit(path: Path, encoding: str) -> tuple[int, int] | None:
    """Line and value of the first byte that `encoding` does not have there."""
    line = 1
    try:
        for part in _blocks(path, encoding):
            line += part.count("\n")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(error.encoding, errors="ignore")
        return line + before.count("\n"), error.object[error.start]
    return None


def _refuse_misfit(path: Path, encoding: str, said: str) -> None:
    if (misfit := _first_misfit(path, encoding)) is not None:
        raise UserError(f"{path}, line {misfit[0]}: byte 0x{misfit[1]:02x} is {said}; {HINT}.")


def _refuse_nul(path: Path, encoding: str) -> None:
    line = 1
    for part in _blocks(path, encoding):
        if "\0" in part:
            line += part[: part.index("\0")].count("\n")
            raise UserError(
                f"{path}, line {line}: holds a NUL character, as UTF-16 without its mark does, or a damaged "
                f"file; {HINT}."
            )
        line += part.count("\n")


def _refuse_mixture(path: Path, other: int) -> None:
    """Refuse a file of which some lines are UTF-8, and line `other` is not.

    A line of another encoding that is UTF-8 by chance is a short one: it would need pairs of bytes that
    come in threes, too.  The first line has the columns' names, which are short.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text = line.decode("utf-8", "replace")
            if "\ufffd" not in text and sum(letter > "\u07ff" for letter in text) > (1 if number == 1 else 3):
                raise UserError(
                    f"{path}: line {number} is UTF-8, line {other} is not; {HINT}, all of it, or give the "
                    "lines of each encoding as a file of their own."
                )


def _refuse_read_wrongly(path: Path) -> None:
    """Refuse UTF-8 whose characters are bytes of Chinese that were taken for another encoding."""
    sample = _sample(path, "utf-8")
    known, others = _count(sample, *COMMON)
    lost = sum(sample.count(mark) for mark in LOST)
    if lost > LOST_SHARE * others:
        raise UserError(
            f"{path}: {lost:,} characters were lost when it was saved; go back to the file that it was made "
            f"from, and {HINT}."
        )
    if known >= SHARE_OF_TEXT * others:
        return
    for wrong, right in READ_WRONGLY:
        meant = sample.encode(wrong, "ignore").decode(right, "replace")
        known, found = _count(meant, *COMMON)
        if known > SHARE_OF_TEXT * found and known > others / 6:  # of three letters for one most came back
            shown = next(line for line in sample.splitlines() if not line.isascii())[:30]
            instead = shown.encode(wrong, "ignore").decode(right, "replace")
            raise UserError(
                f"{path}: was read in a wrong encoding before it was saved: it says {shown!r} instead of "
                f"{instead!r}; go back to the file that it was made from, and {HINT}."
            )


def _sample(path: Path, encoding: str) -> str:
    """The first block of a file that is not ASCII alone."""
    return next((part for part in _blocks(path, encoding, "replace") if not part.isascii()), "")


def _share(text: str, *encodings: str) -> float:
    """How much of what is not ASCII is common in Chinese."""
    known, others = _count(text, *encodings)
    return known / max(1, others)


def _count(text: str, *encodings: str) -> tuple[int, int]:
    """How many characters are common in Chinese, and how many are not ASCII."""
    common = _common(*encodings)
    counts = {letter: count for letter, count in Counter(text).items() if not letter.isascii()}
    return sum(count for letter, count in counts.items() if letter in common), sum(counts.values())


@cache
def _common(*encodings: str) -> frozenset[str]:
    letters = (
        bytes([lead, trail]).decode(encoding, "ignore")
        for encoding in encodings
        for leads, trails in COMMON[encoding]
        for lead in range(leads[0], leads[1] + 1)
        for trail in range(trails[0], trails[1] + 1)
    )
    return frozenset(chain.from_iterable(letters))
