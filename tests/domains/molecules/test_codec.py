"""Codecs both ways on real molecules. The oracle is RDKit's own canonical SMILES."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rdkit import Chem

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.domains.molecules.codec import GDSSMoleculeCodec, MoleculeArrays, MoleculeCodec, make_label, parse_label


def flat(molecule):
    return Chem.MolToSmiles(molecule, isomericSmiles=False)


def parse(smiles):
    return [Chem.MolFromSmiles(one) for one in smiles]


def has_charge(molecule):
    return any(atom.GetFormalCharge() for atom in molecule.GetAtoms())


@pytest.mark.parametrize("fixture", ["qm9_smiles", "zinc_smiles"])
def test_round_trip_keeps_every_real_molecule_charges_included(fixture, request):
    molecules = parse(request.getfixturevalue(fixture))
    codec = MoleculeCodec.infer(molecules)
    records = codec.decode(codec.to_state(molecules))
    assert [record.smiles for record in records] == [flat(molecule) for molecule in molecules]
    assert all(record.valid_without_correction and not record.corrected for record in records)


def test_published_representation_loses_exactly_charges(qm9_smiles):
    molecules = parse(qm9_smiles)
    codec = GDSSMoleculeCodec.infer(molecules)
    assert codec.atoms == ["C", "N", "O", "F"] and codec.max_nodes == 9
    out = codec.to_objects(codec.to_state(molecules))
    for before, after in zip(molecules, out, strict=True):
        if not has_charge(before):
            assert flat(after) == flat(before)
    neutral = sum(not has_charge(molecule) for molecule in molecules) / len(molecules)
    assert neutral == pytest.approx(1 - 1845 / 133885, abs=0.005)  # 98.6 % of QM9 comes back unchanged


def test_tensors_of_formaldoxime():
    """C=NO: one double and one single bond, three atoms, padded to nothing."""
    state = MoleculeCodec(["C", "N", "O"], 3).to_state(parse(["C=NO"]))
    assert torch.equal(state["x"][0], torch.eye(3))
    expected = torch.zeros(3, 3, 4)
    expected[0, 1, 2] = expected[1, 0, 2] = 1  # double
    expected[1, 2, 1] = expected[2, 1, 1] = 1  # single
    expected[0, 2, 0] = expected[2, 0, 0] = 1  # none
    assert torch.equal(state["adj"][0], expected)  # and zero on the diagonal
    published = GDSSMoleculeCodec(["C", "N", "O"], 3).to_state(parse(["C=NO"]))
    assert torch.equal(published["adj"][0], torch.tensor([[0.0, 2, 0], [2, 0, 1], [0, 1, 0]]))


@pytest.mark.parametrize("codec_class", [MoleculeCodec, GDSSMoleculeCodec])
def test_states_are_symmetric_and_zero_outside_the_mask(codec_class, qm9_smiles):
    molecules = parse(["C", "CO", *qm9_smiles[200:210]])
    state = codec_class.infer(molecules).to_state(molecules)
    sizes = tuple(molecule.GetNumAtoms() for molecule in molecules)
    for name in ("x", "adj"):
        layout = state.layouts[name]
        assert layout.sizes == sizes and layout.batch == len(molecules)
        assert torch.equal(state[name], state[name] * layout.mask)
    assert torch.equal(state["adj"], state["adj"].transpose(1, 2))
    assert state.layouts["x"].mask.sum((1, 2)).tolist() == list(sizes)
    assert state.layouts["adj"].mask.flatten(1).sum(1).tolist() == [n * (n - 1) for n in sizes]


def test_published_thresholds_and_virtual_atoms():
    """Spec 8: bond edges 0.5, 1.5, 2.5 (closed below); an atom needs an entry ABOVE 0.5, the first of several wins."""
    codec = GDSSMoleculeCodec(["C", "N", "O", "F"], 4)
    state = codec.template([4])
    x = torch.tensor([[[0.9, 0, 0, 0], [0.5, 0.5, 0.4, 0], [0.2, 0.8, 0.9, 0], [0, 0, 0.51, 0]]])
    adj = torch.zeros(1, 4, 4)
    adj[0, 0, 2] = adj[0, 2, 0] = 1.5  # C=N
    adj[0, 2, 3] = adj[0, 3, 2] = 0.5  # N-O
    adj[0, 1, 0] = adj[0, 0, 1] = 3.0  # bond to the virtual atom: dropped with it
    record = codec.decode(state.put(x=x, adj=adj))[0]
    assert record.smiles == "C=NO" and record.valid_without_correction
    adj[0, 0, 2] = adj[0, 2, 0] = 2.5
    adj[0, 2, 3] = adj[0, 3, 2] = 0.49
    record = codec.decode(state.put(x=x, adj=adj))[0]
    assert record.smiles == "C#N" and not record.connected


def test_padding_never_becomes_an_atom():
    codec = MoleculeCodec(["C", "O"], 3)
    state = codec.template([1, 3])
    noisy = state.put(x=torch.rand(2, 3, 2) + 1, adj=torch.tensor([0.0, 1, 0, 0]).expand(2, 3, 3, 4))
    molecules = codec.to_objects(noisy)
    assert molecules[0].GetNumAtoms() == 1 and molecules[1].GetNumAtoms() == 3


@pytest.mark.parametrize("codec_class", [MoleculeCodec, GDSSMoleculeCodec])
@pytest.mark.parametrize("field", ["x", "adj"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_no_molecules(codec_class, field, bad):
    molecules = parse(["CCO", "CC=O", "CCN"])
    codec = codec_class.infer(molecules)
    state = codec.to_state(molecules)
    state[field][1].view(-1)[1] = bad
    records = codec.decode(state)
    assert [record.smiles for record in records] == ["CCO", None, "CCN"]
    assert [record.error for record in records] == [None, "NonFinite", None]
    assert codec.to_objects(state)[1] is None and not records[1].valid_without_correction


def test_batches_of_a_parsed_set_equal_direct_encoding(zinc_smiles):
    molecules = parse(zinc_smiles[:40])
    codec = MoleculeCodec.infer(molecules)
    arrays, chosen = MoleculeArrays.from_molecules(molecules), [7, 3, 3, 30]
    direct = codec.to_state([molecules[i] for i in chosen])
    for state in (codec.encode(arrays, chosen), codec.encode(arrays.select(np.array(chosen)), range(4))):
        assert torch.equal(state["x"], direct["x"]) and torch.equal(state["adj"], direct["adj"])


def test_config_is_plain_json_and_rebuilds(qm9_smiles):
    codec = MoleculeCodec.infer(parse(qm9_smiles))
    again = from_config(json.loads(json.dumps(to_config(codec))))
    assert type(again) is MoleculeCodec and (again.atoms, again.max_nodes) == (codec.atoms, 9)


def test_vocabulary_spans_all_given_sets():
    codec = MoleculeCodec.infer(parse(["CO"]), [], parse(["C[NH3+]", "CCC"]))
    assert codec.atoms == ["C", "N+", "O"] and codec.max_nodes == 3
    assert GDSSMoleculeCodec.infer(parse(["C[NH3+]"])).atoms == ["C", "N"]


@pytest.mark.parametrize(("label", "atom"), [("C", (6, 0)), ("Cl-", (17, -1)), ("N+", (7, 1)), ("Fe++", (26, 2))])
def test_labels(label, atom):
    assert parse_label(label) == atom and make_label(atom) == label


def test_errors_say_what_was_expected():
    codec = MoleculeCodec(["C", "O"], 3)
    with pytest.raises(UserError, match="atom N is not in the vocabulary of this model: C, O"):
        codec.to_state(parse(["CN"]))
    with pytest.raises(UserError, match="got 4 atoms, this model expects 1 to 3"):
        codec.to_state(parse(["CCCC"]))
    with pytest.raises(UserError, match="expected numbers from 1 to max_nodes=3"):
        codec.template([4])
    with pytest.raises(UserError, match="got no molecule"):
        MoleculeCodec.infer([])
    with pytest.raises(UserError, match="max_nodes: got 0"):
        MoleculeCodec(["C"], 0)
    with pytest.raises(UserError, match="atom label"):
        MoleculeCodec(["n1"], 3)
    with pytest.raises(UserError, match="carry no charge"):
        GDSSMoleculeCodec(["N+"], 3)
