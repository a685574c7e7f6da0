"""Writes src/unicode_tables.hpp: what this Python's str.lower, str.split and re's \\w and \\d know of Unicode.

Usage: python make_unicode_tables.py > ../src/unicode_tables.hpp
Python 3.11 has Unicode 14.0. A newer Python knows more characters; the tables may be made again with it.

utf8proc can't take their place. Its version of Unicode is the distribution's, and no single one equals every Python's:
Debian bookworm's 2.8.0 has Unicode 15.0, and disagrees on what \\w matches with Python 3.11 for 4,388 characters, with
3.12 for none, with 3.13 for 622. Nor does it know the properties Cased and Case_Ignorable, which decide the final
sigma: taken from general categories, they are wrong for 164 and 17 characters.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator

POINTS = [number for number in range(sys.maxunicode + 1) if not 0xD800 <= number <= 0xDFFF]
WIDTH = 120


def main() -> None:
    word, digit, space = re.compile(r"\w"), re.compile(r"\d"), re.compile(r"\s")
    lowered = {point: chr(point).lower() for point in POINTS}
    # The one character that lowers to several. Where Python grows another, unicode.cpp must learn of it.
    assert [point for point, low in lowered.items() if len(low) > 1] == [0x130] and lowered[0x130] == "i\u0307"
    print("// Written by tools/make_unicode_tables.py: do not edit.")
    print(
        f"// Unicode {unicodedata.unidata_version}, as Python {sys.version_info.major}.{sys.version_info.minor} has it."
    )
    print("#pragma once\n\nnamespace caan::detail::unicode {\n")
    print("struct Range {\n    char32_t first, last;\n};\n")
    print("/// Every `step`-th character from first to last lowers to itself plus `delta`.")
    print("struct LowerRange {\n    char32_t first, last;\n    unsigned step;\n    int delta;\n};\n")
    _ranges("WORD", "What `\\w` matches.", lambda c: word.match(c) is not None)
    _ranges("DIGIT", "What `\\d` matches.", lambda c: digit.match(c) is not None)
    _ranges("SPACE", "What str.split splits at, and `\\s` matches.", lambda c: space.match(c) is not None)
    # str.lower tells a final sigma by what stands around it: the properties show in its answers.
    _ranges("CASE_IGNORABLE", "What a sigma's context skips.", lambda c: _is_final(f"A{c}") and not _is_final(c))
    _ranges("CASED", "Of the others: what makes a sigma after it final.", lambda c: _is_final(f"A{c}") and _is_final(c))
    deltas = [(point, ord(low) - point) for point, low in lowered.items() if len(low) == 1 and ord(low) != point]
    _rows(
        "LowerRange",
        "LOWER",
        "str.lower, U+0130 aside.",
        (f"{{{a:#x}, {b:#x}, {step}, {delta}}}" for a, b, step, delta in _runs(deltas)),
    )
    print("} // namespace caan::detail::unicode")


def _is_final(before: str) -> bool:
    return f"{before}\u03a3".lower()[-1] == "\u03c2"


def _ranges(name: str, what: str, holds: Callable[[str], bool]) -> None:
    ranges: list[list[int]] = []
    for point in POINTS:
        if holds(chr(point)):
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    _rows("Range", name, what, (f"{{{first:#x}, {last:#x}}}" for first, last in ranges))


def _runs(deltas: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """(first, last, step, delta) of neighbours, or next but one neighbours, that are lowered alike."""
    runs: list[list[int]] = []
    for point, delta in deltas:
        if runs:
            first, last, step, its_delta = runs[-1]
            gap = point - last
            if delta == its_delta and gap in (1, 2) and (first == last or gap == step):
                runs[-1] = [first, point, gap, delta]
                continue
        runs.append([point, point, 1, delta])
    return ((a, b, step, delta) for a, b, step, delta in runs)


def _rows(kind: str, name: str, what: str, entries: Iterator[str]) -> None:
    print(f"/// {what}\ninline constexpr {kind} {name}[] = {{")
    line = "   "
    for entry in entries:
        if len(line) + len(entry) + 2 > WIDTH:
            print(line)
            line = "   "
        line += f" {entry},"
    print(f"{line}\n}};\n")


if __name__ == "__main__":
    main()
