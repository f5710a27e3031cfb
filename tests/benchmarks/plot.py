"""The ratios as bars in an SVG file, by hand: a dependency for a few rectangles would be a poor bargain."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .harness import Row

_LINE = 34
_LEFT, _WIDTH, _RIGHT = 190, 420, 190


def write(path: Path, rows: list[Row]) -> None:
    """Write a bar for each ratio, with the spread of its rounds and the limit as a line at 1."""
    shown = [(row, row.ratio) for row in rows if row.ratio is not None]
    scale = _WIDTH / max([1.0, *(spread.high for _, spread in shown)])
    height = _LINE * len(shown) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" fill="#555">times as good as the limit (line): median and range</text>',
    ]
    for number, (row, spread) in enumerate(shown):
        y = 34 + number * _LINE
        middle = y + 10
        missed = row.bar is not None and not row.bar.reached
        verdict = "" if row.bar is None else f", bar {row.bar.text}"
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{spread.median * scale:.1f}" height="20" rx="2" '
            f'fill="{"#c0504d" if missed else "#4a7ebb"}"/>',
            f'<path d="M{_LEFT + spread.low * scale:.1f} {middle}H{_LEFT + spread.high * scale:.1f}" stroke="#222"/>',
            f'<text x="{_LEFT + spread.high * scale + 8:.1f}" y="{y + 14}">{spread.median:.2f}{escape(verdict)}</text>',
        ]
    parts.append(f'<path d="M{_LEFT + scale:.1f} 28V{height - 12}" stroke="#222" stroke-dasharray="4 3"/></svg>')
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
