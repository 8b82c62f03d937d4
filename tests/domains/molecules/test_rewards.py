"""Rewards: values by hand or by RDKit's other entry points, floors, user functions, errors."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, Descriptors

from sciflow.core.errors import UserError
from sciflow.domains.molecules.rewards import DEFAULT_FLOOR, load_reward, sa_score

MOLECULES = [Chem.MolFromSmiles(s) for s in ("CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1")] + [None, Chem.Mol()]


def test_named_rewards_and_floors():
    qed, logp, sa = (load_reward(name)(MOLECULES) for name in ("qed", "logp", "sa"))
    np.testing.assert_allclose(qed[:3], [Descriptors.qed(mol) for mol in MOLECULES[:3]])
    np.testing.assert_allclose(logp[:3], [Descriptors.MolLogP(mol) for mol in MOLECULES[:3]])
    assert qed[1] == pytest.approx(0.55, abs=0.01)  # aspirin in the QED paper's own tables
    np.testing.assert_allclose(sa[:3], [(10 - sa_score(mol)) / 9 for mol in MOLECULES[:3]])
    assert sa_score(MOLECULES[1]) == pytest.approx(1.58, abs=0.01)  # aspirin, published script
    assert (qed[3:] == 0).all() and (logp[3:] == -10).all() and (sa[3:] == 0).all()


def test_similarity_is_the_tanimoto_of_morgan_fingerprints():
    reward = load_reward("similarity:OC(=O)c1ccccc1OC(C)=O")
    values = reward(MOLECULES)
    assert values[1] == 1.0 and values[3] == 0.0
    with_old_call = [AllChem.GetMorganFingerprintAsBitVect(mol, 2, nBits=2048) for mol in MOLECULES[:2]]
    assert values[0] == pytest.approx(DataStructs.TanimotoSimilarity(*with_old_call)) and 0 < values[0] < 1


def test_own_function_beside_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text(
        "calls = []\n"
        "def carbons(mol):\n    calls.append(mol)\n    return sum(a.GetSymbol() == 'C' for a in mol.GetAtoms())\n"
        "def strict(mol):\n    return float('nan')\nstrict.floor = -5\n"
        "def broken(mol):\n    return 1 / 0\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    carbons = load_reward("my_reward:carbons")
    assert carbons(MOLECULES + MOLECULES[:1]).tolist() == [2, 9, 6, DEFAULT_FLOOR, DEFAULT_FLOOR, 2]
    import my_reward

    assert len(my_reward.calls) == 3  # ethanol once
    assert load_reward("my_reward:strict")(MOLECULES[:1]).tolist() == [-5]
    with pytest.raises(UserError, match="failed on CCO: ZeroDivisionError"):
        load_reward("my_reward:broken")(MOLECULES)
    with pytest.raises(UserError, match="got a int, expected a function"):
        load_reward("my_reward:number")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("qod", "expected one of qed, logp, sa, similarity:SMILES or module:function"),
        ("similarity:C1CC", "expected a valid SMILES"),
        ("similarity:", "expected"),
        ("no_such_module:f", "expected an importable module"),
        ("math:nothing", "expected an importable module"),
        (":f", "expected one of qed"),
    ],
)
def test_bad_specifications(spec, message):
    with pytest.raises(UserError, match=message):
        load_reward(spec)


def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("def size(molecule)\n    return 1\n")
    (tmp_path / "failing_reward.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"SyntaxError: .*broken_reward.py, line 1"):
        load_reward("broken_reward:size")
    with pytest.raises(UserError, match="failing_reward:size': ZeroDivisionError"):
        load_reward("failing_reward:size")
