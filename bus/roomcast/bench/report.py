"""What a run of the bench leaves: a table for people, JSON for machines. Pure code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roomcast.bench.run import Figure

TEXT_WIDTH = 50


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario gave, or why it gave nothing."""

    name: str
    text: str
    seconds: float
    """How long it took in all."""
    figures: Sequence[Figure] = field(default_factory=tuple)
    trouble: str = ""


def table(machine: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The figures in lines of text."""
    lines = [
        f"roomcast {machine['roomcast']}, {machine['python']}, {machine['cpu']} × {machine['cpus']}, {machine['date']}"
    ]
    for result in results:
        lines += ["", f"{result.name}: {result.text}"]
        if result.trouble:
            lines.append(f"  not measured: {result.trouble}")
        for figure in result.figures:
            if figure.shown:
                lines.append(f"  {figure.text:<{TEXT_WIDTH}} {number(figure.value):>11} {figure.unit}")
    return "\n".join(lines)


def number(value: float) -> str:
    """A number with three digits that matter; whole where it is large."""
    if value >= 1000:
        digits = max(0, len(str(int(value))) - 3)
        return f"{round(value, -digits):,.0f}"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def document(machine: Mapping[str, Any], settings: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The same, and what the table leaves out, for a JSON file."""
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "scenarios": {
            result.name: {
                "text": result.text,
                "seconds": round(result.seconds, 3),
                "trouble": result.trouble or None,
                "figures": {
                    figure.key: {"text": figure.text.strip(), "value": figure.value, "unit": figure.unit}
                    for figure in result.figures
                },
            }
            for result in results
        },
    }
