"""Cells: populations observed at several times without pairing, from AnnData or arrays; results in scverse keys."""
