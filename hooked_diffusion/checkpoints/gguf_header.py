"""Whether a GGUF file is as large as its header says. This is checked before the gguf package reads the file.

The gguf package believes the header's counts: one made-up number keeps it busy for ever. This walk over the header reads only counts, and
skips what they count:

    magic, version, tensors, fields, then per field: name, kind, value; per tensor: name, dimensions, type, offset

Strings and lists begin with their length. Every length must fit into what is left of the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

#: Counts beyond these are in no real file: the largest have some 2 000 tensors, 100 fields, and 300 000 tokens.
MOST_TENSORS, MOST_FIELDS, MOST_ITEMS, MOST_DIMENSIONS = 100_000, 10_000, 4_000_000, 8
STRING, LIST = 8, 9
#: Kind of value → bytes of one.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class BrokenHeader(ValueError):
    """A header whose counts are impossible; the message is a part of a sentence."""


def check_header(path: Path) -> None:
    """Raise `BrokenHeader` unless the header's counts fit the file. Files of the other byte order are refused as well."""
    with path.open("rb") as file:
        Walk(file, path.stat().st_size).header()


class Walk:
    """A walk over an open file of `size` bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.items = file, size, 0

    def header(self) -> None:
        """Walk over the whole header."""
        if self.file.read(4) != b"GGUF":
            raise BrokenHeader("it does not begin with GGUF")
        if (version := self.number("I")) not in (2, 3):
            raise BrokenHeader(f"it is of version {version}; 2 and 3 are read")
        tensors, fields = self.number("Q"), self.number("Q")
        if tensors > MOST_TENSORS or fields > MOST_FIELDS:
            raise BrokenHeader(f"it counts {tensors} tensors and {fields} fields")
        for _ in range(fields):
            self.text()
            self.value(self.number("I"))
        for _ in range(tensors):
            self.text()
            dimensions = self.number("I")
            if dimensions > MOST_DIMENSIONS:
                raise BrokenHeader(f"a tensor has {dimensions} dimensions")
            # Eight bytes per dimension, four for the type, eight for the offset.
            self.skip(8 * dimensions + 4 + 8)

    def value(self, kind: int) -> None:
        """Walk over a value of a field."""
        if kind == STRING:
            self.text()
        elif kind == LIST:
            of, count = self.number("I"), self.number("Q")
            # Summed over all lists: many lists that each pass would take as long as one that does not.
            self.items += count
            if self.items > MOST_ITEMS:
                raise BrokenHeader(f"its lists have {self.items} entries and more")
            if of in SIZES:
                self.skip(SIZES[of] * count)
            elif of == STRING:
                for _ in range(count):
                    self.text()
            else:
                raise BrokenHeader(f"a list is of the unknown kind {of}")
        elif kind in SIZES:
            self.skip(SIZES[kind])
        else:
            raise BrokenHeader(f"a field is of the unknown kind {kind}")

    def text(self) -> None:
        """Walk over a string."""
        self.skip(self.number("Q"))

    def number(self, code: str) -> int:
        """Read one number, little-endian."""
        data = self.file.read(struct.calcsize(f"<{code}"))
        if len(data) < struct.calcsize(f"<{code}"):
            raise BrokenHeader("it ends within its header")
        return struct.unpack(f"<{code}", data)[0]

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        if count > self.size - self.file.tell():
            raise BrokenHeader("it ends within its header")
        self.file.seek(count, 1)
