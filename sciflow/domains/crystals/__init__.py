"""Crystals: species, fractional coordinates in [0, 1) and a lattice whose rows are a, b, c in angstrom.

The room needs pymatgen, spglib and ase (base install). Extras: `chgnet` (energies and relaxation, weights included) and
`crystal-metrics` (matminer and smact: coverage and compositional validity).
"""
