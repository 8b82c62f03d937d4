"""Small drawings of graphs as inline SVG: nodes placed by a spring model, one cell per graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CELL, MARGIN = 150, 12  # pixels


def draw_graphs(graphs: Sequence[Any], columns: int = 6) -> str:
    """One SVG element with the networkx graphs in rows; the layout of a graph is always the same.

    Args:
        graphs: At least one graph.
        columns: Graphs per row.
    """
    columns = min(columns, len(graphs))
    width, height = columns * CELL, -(-len(graphs) // columns) * CELL
    cells = [
        f'<g transform="translate({CELL * (i % columns)},{CELL * (i // columns)})">{_cell(graph)}</g>'
        for i, graph in enumerate(graphs)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"{''.join(cells)}</svg>"
    )


def _cell(graph: Any) -> str:
    import networkx as nx

    positions = nx.spring_layout(graph, seed=0, iterations=80) if len(graph) else {}
    spread = [[float(point[axis]) for point in positions.values()] for axis in (0, 1)]

    def place(node: Any) -> tuple[float, float]:
        x, y = (
            MARGIN
            + (CELL - 2 * MARGIN) * (float(positions[node][axis]) - min(values)) / ((max(values) - min(values)) or 1)
            for axis, values in enumerate(spread)
        )
        return round(x, 1), round(y, 1)

    points = {node: place(node) for node in graph}
    lines = [
        f'<line x1="{points[u][0]}" y1="{points[u][1]}" x2="{points[v][0]}" y2="{points[v][1]}" stroke="#999"/>'
        for u, v in graph.edges()
    ]
    radius = 4 if len(graph) <= 40 else 2
    return "".join(lines) + "".join(
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="#1f5fa8"/>' for x, y in points.values()
    )
