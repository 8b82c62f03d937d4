"""The fast decoder against the published procedure, run literally: RDKit sanitises after every single bond."""

from __future__ import annotations

import numpy as np
import pytest

Chem = pytest.importorskip("rdkit.Chem")

from rdkit import rdBase  # noqa: E402

from sciflow.domains.molecules.decode import BOND_TYPES, decode_graph, decode_graphs, maximum_valence  # noqa: E402

QM9 = [(6, 0), (7, 0), (8, 0), (9, 0)]
ZINC = [(6, 0), (7, 0), (8, 0), (9, 0), (15, 0), (16, 0), (17, 0), (35, 0), (53, 0)]


def first_problem(molecule):
    """(atom, explicit valence) of the first valence error, as the published code parses it from the exception."""
    try:
        Chem.SanitizeMol(molecule, sanitizeOps=Chem.SanitizeFlags.SANITIZE_PROPERTIES)
    except Chem.AtomValenceException as error:
        atom = error.cause.GetAtomIdx()
        return atom, sum(int(bond.GetBondTypeAsDouble()) for bond in molecule.GetAtomWithIdx(atom).GetBonds())
    return None


def published_procedure(types, orders, atoms):
    """Spec section 8, step by step on an RDKit molecule: (smiles or None, valid without correction, connected)."""
    keep = [i for i in range(len(types)) if types[i] >= 0]
    molecule = Chem.RWMol()
    for i in keep:
        molecule.AddAtom(Chem.Atom(atoms[types[i]][0]))
    for row, i in enumerate(keep):
        for column, j in enumerate(keep[:row]):
            if orders[i, j]:
                molecule.AddBond(row, column, BOND_TYPES[int(orders[i, j])])
                problem = first_problem(molecule)
                if problem is not None:
                    atom = molecule.GetAtomWithIdx(problem[0])
                    standard = {7: 3, 8: 2, 16: 2}.get(atom.GetAtomicNum())
                    if standard is not None and problem[1] - standard == 1:
                        atom.SetFormalCharge(1)
    valid = first_problem(molecule) is None
    while (problem := first_problem(molecule)) is not None:
        bonds = sorted(
            molecule.GetAtomWithIdx(problem[0]).GetBonds(), key=lambda bond: bond.GetBondTypeAsDouble(), reverse=True
        )
        begin, end, order = bonds[0].GetBeginAtomIdx(), bonds[0].GetEndAtomIdx(), int(bonds[0].GetBondTypeAsDouble())
        molecule.RemoveBond(begin, end)
        if order > 1:
            molecule.AddBond(begin, end, BOND_TYPES[order - 1])
    smiles = Chem.MolToSmiles(molecule)
    fragments = sorted(smiles.split("."), key=len, reverse=True)
    parsed = Chem.MolFromSmiles(fragments[0])
    return None if parsed is None else Chem.MolToSmiles(parsed), valid, len(fragments) == 1


def random_graphs(rng, count, nodes, kinds, density):
    types = rng.integers(-1, kinds, size=(count, nodes))
    upper = np.triu(rng.choice([1, 1, 1, 2, 3], size=(count, nodes, nodes)), 1)
    upper = upper * (rng.random(upper.shape) < density)
    return types, upper + upper.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("atoms", "nodes", "density"),
    [(QM9, 9, 0.15), (QM9, 9, 0.3), (QM9, 9, 0.7), (ZINC, 20, 0.08), (ZINC, 20, 0.2), (ZINC, 38, 0.05)],
)
def test_equals_the_published_procedure_on_random_matrices(atoms, nodes, density):
    rng = np.random.default_rng(nodes)
    types, orders = random_graphs(rng, 120, nodes, len(atoms), density)
    records = decode_graphs(types, orders, atoms)
    valid_seen = set()
    with rdBase.BlockLogs():
        for record, kinds, matrix in zip(records, types, orders, strict=True):
            if (kinds < 0).all():
                assert record.error == "Empty"
                continue
            smiles, valid, connected = published_procedure(kinds, matrix, atoms)
            assert (record.smiles, record.valid_without_correction, record.connected) == (smiles, valid, connected)
            assert record.corrected == (not valid)
            valid_seen.add(valid)
    assert False in valid_seen  # the correction loop was exercised


def test_valences_against_textbook_values():
    assert [maximum_valence(z, 0) for z in (1, 6, 7, 8, 9, 15, 16, 17)] == [1, 4, 3, 2, 1, 5, 6, 1]
    assert [maximum_valence(z, 1) for z in (7, 8)] == [4, 3]
    assert [maximum_valence(z, -1) for z in (7, 8)] == [2, 1]


def test_ammonium_gets_its_charge_and_is_valid_without_correction():
    record = decode_graph([(7, 0)] + [(6, 0)] * 4, [(i, 0, 1) for i in (1, 2, 3, 4)])
    assert (record.smiles, record.valid_without_correction, record.corrected) == ("C[N+](C)(C)C", True, False)


def test_five_bonded_carbon_loses_its_oldest_single_bond():
    record = decode_graph([(6, 0), (7, 0)] + [(6, 0)] * 4, [(i, 0, 1) for i in range(1, 6)])
    assert (record.smiles, record.valid_without_correction, record.corrected) == ("CC(C)(C)C", False, True)
    assert not record.connected  # the nitrogen was cut off; the longest SMILES string stays


def test_double_bond_is_lowered_before_single_bonds():
    record = decode_graph([(6, 0)] * 4 + [(8, 0)], [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 2)])
    assert record.smiles == "CC(C)(C)O" and record.corrected and record.connected


def test_charged_vocabulary_restores_zwitterions():
    glycine = [(7, 1), (6, 0), (6, 0), (8, 0), (8, -1)]
    record = decode_graph(glycine, [(1, 0, 1), (2, 1, 1), (3, 2, 2), (4, 2, 1)])
    assert record.smiles == Chem.CanonSmiles("[NH3+]CC(=O)[O-]") and record.valid_without_correction


def test_empty_graph_and_isolated_atom():
    empty, methane = decode_graphs(np.array([[-1, -1], [0, -1]]), np.zeros((2, 2, 2), int), QM9)
    assert (empty.molecule, empty.error, empty.valid_without_correction) == (None, "Empty", False)
    assert (methane.smiles, methane.connected) == ("C", True)
