from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from rdkit import Chem

from sciflow.domains.molecules.render import CELL, draw_png, draw_svg


def test_svg_is_one_well_formed_element_of_the_right_size():
    molecules = [Chem.MolFromSmiles("CCO"), None, Chem.MolFromSmiles("c1ccccc1"), Chem.MolFromSmiles("C[N+](C)(C)C")]
    root = ElementTree.fromstring(draw_svg(molecules, ["a", "", "c", "d"], columns=3))
    assert (
        root.tag.endswith("svg")
        and root.get("width") == f"{3 * CELL[0]}px"
        and root.get("height") == f"{2 * CELL[1]}px"
    )
    assert len(root.findall(".//{*}path")) > 15


def test_drawing_does_not_depend_on_the_atom_order():
    assert draw_svg([Chem.MolFromSmiles("OCC(=O)N")]) == draw_svg([Chem.MolFromSmiles("NC(=O)CO")])


def test_png_bytes():
    data = draw_png([Chem.MolFromSmiles("CCO")])
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(data[16:20]) == CELL[0]
    with pytest.raises(ValueError, match="expected as many"):
        draw_png([])
