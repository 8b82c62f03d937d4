"""Grids of structure drawings for reports: SVG text or PNG bytes, returned and never shown."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

CELL = (180, 140)  # pixels


def draw_svg(molecules: Sequence[Chem.Mol | None], legends: Sequence[str] | None = None, columns: int = 6) -> str:
    """One SVG element (ready for an HTML page) with the molecules in rows; None leaves an empty cell."""
    text = _draw(rdMolDraw2D.MolDraw2DSVG, molecules, legends, columns)
    return text[text.index("<svg") :]  # an XML declaration is not allowed inside HTML


def draw_png(molecules: Sequence[Chem.Mol | None], legends: Sequence[str] | None = None, columns: int = 6) -> bytes:
    """The same grid as the bytes of a PNG file."""
    return _draw(rdMolDraw2D.MolDraw2DCairo, molecules, legends, columns)


def _draw(canvas, molecules: Sequence[Chem.Mol | None], legends: Sequence[str] | None, columns: int):
    if not molecules or (legends is not None and len(legends) != len(molecules)):
        raise ValueError(
            f"got {len(molecules)} molecules, {legends and len(legends)} legends; expected as many, at least 1"
        )
    width, height = CELL
    columns = min(columns, len(molecules))
    rows = -(-len(molecules) // columns)
    drawing = canvas(columns * width, rows * height, width, height)
    drawing.drawOptions().legendFontSize = 13
    # canonical atom order: the picture of a molecule does not depend on how it was generated
    drawn = [Chem.Mol() if mol is None else Chem.MolFromSmiles(Chem.MolToSmiles(mol)) or mol for mol in molecules]
    drawing.DrawMolecules(drawn, legends=list(legends) if legends is not None else [""] * len(drawn))
    drawing.FinishDrawing()
    return drawing.GetDrawingText()
