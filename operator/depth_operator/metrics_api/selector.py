"""Label selectors as Kubernetes writes them: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SELECTOR_CHARACTERS = 4096
"""Longer than any selector of a HorizontalPodAutoscaler, short enough to be parsed at no cost."""

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?:[a-z0-9][-a-z0-9.]{{0,252}}/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_REQUIREMENT = re.compile(
    rf"\s*(?:"
    rf"(?P<set_key>{_KEY})\s+(?P<set_operator>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<negation>!)?\s*(?P<exists_key>{_KEY})"
    rf")\s*(?:,|$)"
)


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    NOT_EXISTS = "!"


class SelectorError(ValueError):
    """The text is no label selector."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of the comma-separated parts of a selector."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.NOT_EXISTS:
                return value is None


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must match; an empty selector selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def named(self, key: str) -> frozenset[str] | None:
        """The values of `key` that are asked for by name; None if the selector names none."""
        named = [item.values for item in self.requirements if item.key == key and item.operator is Operator.IN]
        return frozenset.intersection(*named) if named else None


def parse_selector(text: str) -> Selector:
    """Parse a label selector.

    Raises:
        SelectorError: If the text is too long or no selector; the message shows where it stops to be one.
    """
    if len(text) > MAX_SELECTOR_CHARACTERS:
        raise SelectorError(f"a label selector has at most {MAX_SELECTOR_CHARACTERS} characters, this one {len(text)}")
    requirements = []
    position = 0
    while text[position:].strip():
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise SelectorError(f"no label selector from here on: {text[position : position + 80]!r}")
        requirements.append(_requirement(match))
        position = match.end()
    if text.rstrip().endswith(","):
        raise SelectorError("a label selector must not end with a comma")
    return Selector(tuple(requirements))


def _requirement(match: re.Match[str]) -> Requirement:
    if key := match["set_key"]:
        values = [value.strip() for value in match["values"].split(",")]
        for value in values:
            if not re.fullmatch(_VALUE, value):
                raise SelectorError(f"{value!r} is no label value")
        return Requirement(key, Operator(match["set_operator"]), frozenset(values))
    if key := match["key"]:
        operator = Operator.NOT_IN if match["operator"] == "!=" else Operator.IN
        return Requirement(key, operator, frozenset([match["value"]]))
    return Requirement(match["exists_key"], Operator.NOT_EXISTS if match["negation"] else Operator.EXISTS)
