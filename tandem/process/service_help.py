"""A service's `--help`, in the words of whoever writes flags and not of Python's types."""

from __future__ import annotations

import re
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Callable

TYPES = {"Path": "path", "SecretStr": "str"}
# Of what is unset or empty unless it is given: the description says what that means.
NO_DEFAULT = re.compile(r" ?\(default: (null)?\)$")


class ServiceHelp(RawDescriptionHelpFormatter):
    """Formats what settings make of their fields."""

    def _get_help_string(self, action: Action) -> str:
        return NO_DEFAULT.sub("", super()._get_help_string(action) or "")

    def _metavar_formatter(
        self, action: Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        written = super()._metavar_formatter(action, default_metavar)
        return lambda size: tuple(TYPES.get(each, each) for each in written(size))
