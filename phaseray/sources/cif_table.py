"""A loop of a CIF block by columns, as text or as numbers."""

from __future__ import annotations

from functools import cached_property

import gemmi
import numpy as np

from phaseray.crystal import Floats

_NULL = ("?", ".", "")
_as_number = gemmi.cif.as_number


class Table:
    """A loop of a CIF block (or its single row given as tag and value) by lower-case tag without its prefix."""

    def __init__(self, block: gemmi.cif.Block, prefix: str, keys: tuple[str, ...]) -> None:
        self.values: list[str] = []
        self.columns: dict[str, int] = {}
        self.tags: list[str] = []
        n = len(prefix)
        for key in keys:
            for separator in "_.":
                column = block.find_values(prefix + separator + key)
                if not column:
                    continue
                loop = column.get_loop()
                if loop is not None:
                    self.values = loop.values
                    self.tags = tags = loop.tags
                else:
                    pairs = [item.pair for item in block if item.pair and item.pair[0].lower().startswith(prefix)]
                    tags = [tag for tag, _ in pairs]
                    self.values = [value for _, value in pairs]
                self.columns = {t.lower()[n + 1 :].replace(".", "_"): i for i, t in enumerate(tags)}
                return

    def __len__(self) -> int:
        return len(self.values) // len(self.columns) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def raw(self, name: str) -> list[str] | None:
        """The column as it is in the file, or None."""
        index = self.columns.get(name)
        return None if index is None else self.values[index :: len(self.columns)]

    def text(self, name: str) -> list[str] | None:
        """The column without quotes; '' for ? and . (unknown and inapplicable)."""
        raw = self.raw(name)
        if raw is None:
            return None
        return ["" if v in _NULL else v if v[0] not in "'\";" else gemmi.cif.as_string(v) for v in raw]

    def numbers(self, *names: str) -> Floats | None:
        """(n, len(names)) columns as numbers without their standard uncertainties; NaN where there is none."""
        indices = [self.columns.get(name, -1) for name in names]
        if min(indices) < 0:
            return None
        width = len(self.columns)
        values = self.values
        return np.array([list(map(_as_number, values[i::width])) for i in indices]).T

    def is_last_of(self, block: gemmi.cif.Block) -> bool:
        """Whether nothing follows the loop in its block: then the file may have been cut within it."""
        last = block[-1].loop
        return last is not None and last.tags == self.tags

    @cached_property
    def label(self) -> list[str]:
        return self.text("label") or self.text("type_symbol") or [""] * len(self)
