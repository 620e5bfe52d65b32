"""Draw what `lorafit preview` shows into docs/pictures: `python -m scripts.preview_pictures RECIPE NAME [ROWS]`.

The pictures are SVG with the fonts that a reader has: they load nothing from anywhere.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from lorafit.model.quiet import quiet_libraries, without_torch
from lorafit.recipe.load import load_recipe

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 100
THEME = TerminalTheme(
    (250, 250, 250),
    (40, 40, 40),
    [
        (0, 0, 0),
        (190, 40, 40),
        (120, 205, 120),
        (245, 195, 80),
        (50, 90, 190),
        (165, 50, 160),
        (0, 130, 140),
        (90, 90, 90),
    ],
)
WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def picture(recipe: Path, rows: int) -> str:
    """Give the preview of a recipe as SVG."""
    from lorafit.report.preview import look
    from lorafit.report.preview_text import lines

    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor")
    preview = look(load_recipe(recipe, []).recipe, rows)
    preview.data.remarks.clear()  # on this time only: whether the cache had it
    for line in lines(preview, full=False, coloured=True, width=WIDTH):
        console.print(line)
    console.print()
    svg = console.export_svg(title=f"lorafit preview {recipe.as_posix()} -n {rows}", theme=THEME, unique_id="preview")
    return without_web_fonts(svg)


def without_web_fonts(svg: str) -> str:
    """Take out the fonts that rich would fetch from a host."""
    local = WEB_FONTS.sub("", svg).replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    return local.replace("<!-- Generated with Rich https://www.textualize.io -->", "")


def main(recipe: str, name: str, rows: str = "2") -> None:
    """Draw one picture."""
    without_torch()
    quiet_libraries()
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(picture(Path(recipe), int(rows)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
