"""A family's block as an SVG, drawn from the description under `block` in its data file.

    block:
      arch: davit_tiny                 # whose stages stand above the block; read from the backbone itself
      panels:
      - title: a block
        flow: [...]                    # from top to bottom

A flow is a list of a text (a box; with a star before it, a box that stands out), `{residual: FLOW}` (the flow's result
is added to what went in), `{gate: FLOW}` (multiplied by it) and `{split: [FLOW, ...], join: TEXT}` (flows side by side
that end in one node).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import torch

from ...backbones import build_backbone
from ...errors import InputError

FONT, CHARACTER = 13, 7.1  # pixels: of the text, and the width of a character of it, generously
BOX, GAP, NODE, PAD, LANE = 30, 16, 10, 12, 22  # pixels: height of a box, of an arrow, radius of a node, and margins
# The picture brings its own ground: it is legible on a page of either colour, whatever the page asked for.
STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; }
  .box { fill: #f3f6f9; stroke: #8b98a5; }
  .key { fill: #dcebff; stroke: #2f6fbd; }
  .line { stroke: #57606a; stroke-width: 1.4; fill: none; }
  .head { fill: #57606a; }
  .node { fill: #ffffff; stroke: #57606a; stroke-width: 1.4; }
  text { font: 13px system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle; }
  .title { font-weight: 600; }
  .small { font-size: 12px; fill: #4b535c; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #14181d; stroke: #3d444d; }
    .box { fill: #222931; stroke: #7d8894; }
    .key { fill: #17365f; stroke: #6aa5ee; }
    .line { stroke: #9aa4ae; }
    .head { fill: #9aa4ae; }
    .node { fill: #14181d; stroke: #9aa4ae; }
    text { fill: #e6edf3; }
    .small { fill: #b0bac4; }
  }"""


class Piece(NamedTuple):
    """Something laid out: it enters at the top and leaves at the bottom, both at `axis` from its left side."""

    width: float
    height: float
    axis: float
    draw: Any  # (x of the left side, y of the top) -> list of SVG elements


def render(name: str, block: Mapping[str, Any]) -> str:
    """The SVG of a description.

    Args:
        name: of the family, for the picture's title.
        block: what stands under `block` in the data file.

    Raises:
        InputError: an element of a flow that is none of the four kinds.
    """
    panels = [(panel["title"], flow_piece(panel["flow"])) for panel in block["panels"]]
    widths = [max(piece.width, len(title) * CHARACTER) + 2 * PAD for title, piece in panels]
    stages = stage_texts(block["arch"])
    strip = max(len(line) for texts in stages for line in texts) * CHARACTER + 2 * PAD
    across = max(sum(widths) + GAP * (len(widths) + 1), len(stages) * (strip + GAP) + GAP)
    parts, y = [], float(GAP)
    parts += [text(across / 2, y + 12, f"{name}: the stages of {block['arch']}", "title")]
    y += 26
    x = (across - len(stages) * strip - (len(stages) - 1) * GAP) / 2
    for index, lines in enumerate(stages):
        parts.append(
            f'<rect class="box" x="{x:g}" y="{y:g}" width="{strip:g}" height="{18 * len(lines) + 10}" rx="6"/>'
        )
        parts += [
            text(x + strip / 2, y + 20 + 18 * row, line, "" if row == 0 else "small") for row, line in enumerate(lines)
        ]
        if index:
            parts += arrow(x - GAP, y + (18 * len(lines) + 10) / 2, x, y + (18 * len(lines) + 10) / 2)
        x += strip + GAP
    y += 18 * max(len(lines) for lines in stages) + 10 + 2 * GAP
    x = (across - sum(widths) - GAP * (len(widths) - 1)) / 2
    for (title, piece), width in zip(panels, widths, strict=True):
        parts.append(text(x + width / 2, y + 12, title, "title"))
        parts += piece.draw(x + (width - piece.width) / 2, y + 24)
        x += width + GAP
    height = y + 24 + max(piece.height for _, piece in panels) + GAP
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {across:.0f} {height:.0f}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">{escape(name)}: its stages and its block</title>\n'
        f'<desc id="d">{escape(words(block))}</desc>\n'
        f"<style>{STYLE}\n</style>\n"
        f'<rect class="ground" x="0.5" y="0.5" width="{across - 1:.0f}" height="{height - 1:.0f}" rx="10"/>\n'
        f"{body}\n</svg>\n"
    )


def stage_texts(arch: str) -> list[list[str]]:
    """Lines of text a stage: its number, stride, channels and blocks, as the backbone has them."""
    with torch.device("meta"):
        backbone = build_backbone(arch)
    info = backbone.feature_info
    return [
        [f"stage {stage + 1}", f"stride {stride}, {dim} channels", f"{blocks} block{'s' if blocks > 1 else ''}"]
        for stage, (stride, dim, blocks) in enumerate(
            zip(info.reduction(), info.channels(), backbone.arch.depths, strict=True)
        )
    ]


def words(block: Mapping[str, Any]) -> str:
    """The description as a sentence a panel, for who does not see the picture."""
    return " ".join(f"{panel['title']}: {_flow_words(panel['flow'])}." for panel in block["panels"])


def _flow_words(flow: Sequence[Any]) -> str:
    return ", then ".join(_element_words(element) for element in flow)


def _element_words(element: Any) -> str:
    if isinstance(element, str):
        return element.lstrip("*")
    if "residual" in element:
        return f"(added to its input: {_flow_words(element['residual'])})"
    if "gate" in element:
        return f"(its input is multiplied by: {_flow_words(element['gate'])})"
    ways = "; beside it ".join(_flow_words(flow) or "nothing" for flow in element["split"])
    return f"({ways}; joined by {element['join']})"


def flow_piece(flow: Sequence[Any], tail: bool = True) -> Piece:
    """Elements below one another, joined by lines: with heads where a box follows, and at the end if `tail`."""
    pieces = [element_piece(element) for element in flow]
    axis = max((piece.axis for piece in pieces), default=0)
    width = axis + max((piece.width - piece.axis for piece in pieces), default=0)
    height = sum(piece.height for piece in pieces) + GAP * (len(pieces) + 1)

    def draw(x: float, y: float) -> list[str]:
        parts = []
        for element, piece in zip(flow, pieces, strict=True):
            join = arrow if isinstance(element, str) else line
            parts += join(x + axis, y, x + axis, y + GAP)
            parts += piece.draw(x + axis - piece.axis, y + GAP)
            y += GAP + piece.height
        join = arrow if tail else line
        return parts + join(x + axis, y, x + axis, y + GAP)

    return Piece(width, height, axis, draw)


def element_piece(element: Any) -> Piece:
    """One element of a flow.

    Raises:
        InputError: it is of no kind that can be drawn.
    """
    if isinstance(element, str):
        return box_piece(element)
    if isinstance(element, Mapping) and len(kind := set(element) & {"residual", "gate", "split"}) == 1:
        if "split" in kind:
            return split_piece(element["split"], element["join"])
        name = kind.pop()
        return around_piece(flow_piece(element[name]), "+" if name == "residual" else "×")
    raise InputError(f"a picture's flow has texts, residual, gate and split, not {element!r}")


def box_piece(label: str) -> Piece:
    shown = label.lstrip("*")
    width = max(len(shown) * CHARACTER + 2 * PAD, 110)
    kind = "key" if label.startswith("*") else "box"

    def draw(x: float, y: float) -> list[str]:
        rect = f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX}" rx="6"/>'
        return [rect, text(x + width / 2, y + BOX / 2 + 4.5, shown)]

    return Piece(width, BOX, width / 2, draw)


def around_piece(inner: Piece, sign: str) -> Piece:
    """A flow and a line past it, which meet in a node."""
    shift = LANE  # the line's place left of the flow
    height = GAP + inner.height + 2 * NODE

    def draw(x: float, y: float) -> list[str]:
        axis, end = x + shift + inner.axis, y + GAP + inner.height + NODE
        parts = line(axis, y, axis, y + GAP)
        parts += inner.draw(x + shift, y + GAP)
        parts.append(f'<path class="line" d="M{axis:g} {y + GAP / 2:g} H{x + 6:g} V{end:g} H{axis - NODE - 6:g}"/>')
        parts += arrow(axis - NODE - 8, end, axis - NODE, end)
        return parts + node(axis, end, sign)

    return Piece(inner.width + shift, height, shift + inner.axis, draw)


def split_piece(flows: Sequence[Sequence[Any]], join: str) -> Piece:
    """Flows side by side that begin in one line and end in one node or box."""
    pieces = [flow_piece(flow, tail=False) for flow in flows]
    tall = max(piece.height for piece in pieces)
    lefts, at = [], 0.0
    for piece in pieces:
        lefts.append(at)
        at += max(piece.width, 2 * NODE) + GAP
    width = at - GAP
    signs = len(join) == 1
    end = None if signs else box_piece(join)
    axis = (lefts[0] + pieces[0].axis + lefts[-1] + pieces[-1].axis) / 2
    if end:
        axis = max(axis, end.axis)
        width = max(width, axis + end.width - end.axis)
    height = GAP / 2 + tall + GAP + (2 * NODE if signs else BOX)

    def draw(x: float, y: float) -> list[str]:
        top, bottom = y + GAP / 2, y + GAP / 2 + tall
        columns = [x + left + piece.axis for left, piece in zip(lefts, pieces, strict=True)]
        parts = line(x + axis, y, x + axis, top) + line(min(columns), top, max(columns), top)
        for piece, left, column in zip(pieces, lefts, columns, strict=True):
            parts += piece.draw(x + left, top) if piece.width else []
            parts += line(column, top + (piece.height if piece.width else 0), column, bottom)
        parts += line(min(columns), bottom, max(columns), bottom) + arrow(x + axis, bottom, x + axis, bottom + GAP)
        if end:
            return parts + end.draw(x + axis - end.axis, bottom + GAP)
        return parts + node(x + axis, bottom + GAP + NODE, join)

    return Piece(width, height, axis, draw)


def text(x: float, y: float, shown: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{x:g}" y="{y:g}">{escape(shown)}</text>'


def line(x0: float, y0: float, x1: float, y1: float) -> list[str]:
    return [f'<path class="line" d="M{x0:g} {y0:g} L{x1:g} {y1:g}"/>']


def arrow(x0: float, y0: float, x1: float, y1: float) -> list[str]:
    """A line with a head, downwards or to the right."""
    if x0 == x1:
        head, y1 = f"M{x1 - 4:g} {y1 - 7:g} H{x1 + 4:g} L{x1:g} {y1:g} Z", y1 - 6
    else:
        head, x1 = f"M{x1 - 7:g} {y1 - 4:g} V{y1 + 4:g} L{x1:g} {y1:g} Z", x1 - 6
    return [*line(x0, y0, x1, y1), f'<path class="head" d="{head}"/>']


def node(x: float, y: float, sign: str) -> list[str]:
    return [f'<circle class="node" cx="{x:g}" cy="{y:g}" r="{NODE}"/>', text(x, y + 4.5, sign)]
