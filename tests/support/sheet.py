"""A contact sheet of what went in and what came out, as a picture and as a page.

sheet = Sheet(title, subtitle, entries)
sheet.write(folder)         gallery.png and gallery.html, which needs no other file
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, COLUMNS = 1400, 24, 8
SIDE, GAP = 76, 6
LINE, LABEL = 13, 44
BAND = 40
COLOURS = 96
"""In the palette of the PNG; with fewer one sees it, with more the file grows."""

PAPER, INK, FAINT, CARD = "#f3f4f6", "#1f2937", "#6b7280", "#ffffff"
GREEN, RED, BLUE = "#15803d", "#dc2626", "#1d4ed8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file.

    Attributes:
        name, group, note: as the gallery has them.
        before: the original, as an independent decoder shows it; None when none can, then `head` is shown.
        head: how its bytes begin.
        after: what was stored; None when nothing was.
        said: success or the error code.
        size: what to say about sizes, in a word.
        fine: whether that is what had to come.
    """

    name: str
    group: str
    note: str
    before: Image.Image | None
    head: str
    after: Image.Image | None
    said: str
    size: str
    fine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The sheet of all entries, under the headings of their groups, in their order."""

    title: str
    subtitle: str
    entries: Sequence[Entry]

    def write(self, folder: Path) -> None:
        """gallery.png and gallery.html."""
        folder.mkdir(parents=True, exist_ok=True)
        few = self.draw().quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(folder / "gallery.png", optimize=True)
        (folder / "gallery.html").write_text(self.page(), encoding="utf-8")

    def groups(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found

    def draw(self) -> Image.Image:
        """The picture, 1400 pixels wide."""
        across, down = (WIDTH - 2 * MARGIN) // COLUMNS, SIDE + LABEL + 2 * GAP
        lines = {name: -(-len(group) // COLUMNS) for name, group in self.groups().items()}
        height = 118 + sum(BAND + count * down for count in lines.values()) + MARGIN
        sheet = Image.new("RGB", (WIDTH, height), PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((MARGIN, 26), self.title, fill=INK, font=ImageFont.load_default(30))
        pen.text((MARGIN, 72), self.subtitle, fill=FAINT, font=ImageFont.load_default(15))
        top = 104
        for name, group in self.groups().items():
            pen.text((MARGIN, top + 14), name, fill=INK, font=ImageFont.load_default(19))
            top += BAND
            for index, entry in enumerate(group):
                left = MARGIN + index % COLUMNS * across
                _card(sheet, entry, (left, top + index // COLUMNS * down, left + across - GAP))
            top += lines[name] * down
        return sheet

    def page(self) -> str:
        """The same as HTML, with the pictures in it."""
        parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(self.title)}</title><style>{STYLE}</style>"]
        parts.append(f"<h1>{html.escape(self.title)}</h1><p>{html.escape(self.subtitle)}</p>")
        for name, group in self.groups().items():
            parts.append(f"<h2>{html.escape(name)}</h2><div class=cards>")
            parts += [_html_card(entry) for entry in group]
            parts.append("</div>")
        return "\n".join(parts) + "\n"


STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: {INK}; background: {PAPER}; margin: 2rem auto; max-width: 1400px;
  padding: 0 1rem }}
h1 {{ margin: 0 }} p {{ color: {FAINT} }} h2 {{ margin: 2rem 0 .6rem; font-size: 1.2rem }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: 10px }}
.card {{ background: {CARD}; border: 2px solid {GREEN}; border-radius: 6px; padding: 8px; font-size: 12px }}
.wrong {{ border-color: {RED}; background: #fef2f2 }}
.two {{ display: flex; gap: 6px; height: 90px }} .two > * {{ flex: 1; min-width: 0; max-height: 90px; object-fit: contain }}
.none {{ display: grid; place-items: center; background: {PAPER}; color: {FAINT}; border-radius: 4px; text-align: center }}
b {{ display: block; overflow-wrap: anywhere; margin-top: 6px }} .code {{ color: {BLUE} }} .note {{ color: {FAINT} }}
""".strip()


def _card(sheet: Image.Image, entry: Entry, place: tuple[int, int, int]) -> None:
    """Two thumbnails side by side, three lines below, a frame that says whether it is as it should be."""
    left, top, right = place
    pen = ImageDraw.Draw(sheet)
    colour = GREEN if entry.fine else RED
    box = (left, top, right, top + SIDE + LABEL + GAP)
    pen.rounded_rectangle(box, 5, fill=CARD, outline=colour, width=1 if entry.fine else 4)
    half = (right - left - 3 * GAP) // 2
    for index, (image, text) in enumerate(((entry.before, _lines(entry.head)), (entry.after, _short(entry.said)))):
        start = left + GAP + index * (half + GAP)
        if image is None:
            pen.rounded_rectangle((start, top + GAP, start + half - 1, top + SIDE), 4, fill=PAPER)
            middle = (start + half / 2, top + GAP + (SIDE - GAP) / 2)
            ink = BLUE if index and entry.fine else RED if index else FAINT
            pen.multiline_text(middle, text, fill=ink, font=ImageFont.load_default(11), anchor="mm", align="center")
            continue
        small = thumbnail(image, half, SIDE - GAP)
        at = (start + (half - small.width) // 2, top + GAP + (SIDE - GAP - small.height) // 2)
        sheet.paste(small, at)
        pen.rectangle((at[0] - 1, at[1] - 1, at[0] + small.width, at[1] + small.height), outline="#d1d5db")
    texts = (
        (entry.name, INK, 12),
        (entry.size or entry.said, colour if entry.after else BLUE, 11),
        (entry.note, FAINT, 10),
    )
    for line, (text, ink, size) in enumerate(texts):
        font = ImageFont.load_default(size)
        pen.text(
            (left + GAP, top + SIDE + 5 + line * LINE),
            _fitting(text, font, right - left - 2 * GAP),
            fill=ink,
            font=font,
        )


def thumbnail(image: Image.Image, width: int, height: int) -> Image.Image:
    """At most that large; tiny and thin pictures enlarged, so that one sees them."""
    scale = min(width / image.width, height / image.height)
    size = max(3, round(image.width * scale)), max(3, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 4 else Image.Resampling.BOX)


def _lines(head: str) -> str:
    """The first few characters, ten to a line."""
    return "\n".join(head[start : start + 10] for start in range(0, min(len(head), 40), 10))


def _short(code: str) -> str:
    """On several lines."""
    return code.replace("_", "\n")


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _html_card(entry: Entry) -> str:
    before = _html_picture(entry.before, "<br>".join(html.escape(line) for line in _lines(entry.head).split("\n")))
    after = _html_picture(entry.after, html.escape(_short(entry.said)).replace("\n", "<br>"))
    texts = [html.escape(text) for text in (entry.name, entry.size or entry.said, entry.note)]
    return (
        f"<div class='card{'' if entry.fine else ' wrong'}'><div class=two>{before}{after}</div>"
        f"<b>{texts[0]}</b><span class=code>{texts[1]}</span><br><span class=note>{texts[2]}</span></div>"
    )


def _html_picture(image: Image.Image | None, text: str) -> str:
    if image is None:
        return f"<div class=none>{text}</div>"
    out = io.BytesIO()
    thumbnail(image, 98, 90).save(out, "WEBP", quality=70)
    return f"<img src='data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}' alt=''>"
