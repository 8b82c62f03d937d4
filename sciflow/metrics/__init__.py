"""Distances between sets of samples (NumPy only; nothing heavy is imported here)."""
