"""Schrodinger bridges through snapshots of a population, with iterative refinement of the reference (SBIRR)."""
