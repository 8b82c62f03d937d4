"""Molecules: codec, decoding, files, data sets, metrics, rewards, pictures. RDKit loads with the first submodule.

Import from the submodules: ``codec`` (`MoleculeCodec`, `GDSSMoleculeCodec`), ``decode``, ``files``, ``data``
(`molecule_dataset`), ``metrics`` (`evaluate_molecules`), ``rewards`` (`load_reward`), ``render``.
"""
