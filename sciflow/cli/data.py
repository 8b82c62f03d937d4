"""Data sets: where they come from, under which terms, how large they are, and whether they are on this machine.

    sciflow data list
    sciflow data list zinc250k
    sciflow data get zinc250k

Names resolve in this order: the folder in SCIFLOW_DATA, the user cache (SCIFLOW_CACHE), the small sets that ship. A set
of the open web whose checksum we do not know asks for one: --sha256.
"""

from __future__ import annotations

import argparse

from sciflow import data
from sciflow.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow data`."""
    parser.add_argument("action", help="list (all, or the card of one set) or get (fetch one into the user cache)")
    parser.add_argument("name", nargs="?", default=None, help="data set")
    parser.add_argument("--sha256", default=None, help="checksum of the file to get, where its card knows none")


def run(arguments: argparse.Namespace) -> None:
    """Print cards, or fetch a set and print its path."""
    if arguments.action == "get":
        if arguments.name is None:
            raise UserError(f"data get: no name given, expected one of {', '.join(data.DATASETS)}")
        print(data.get(arguments.name, arguments.sha256))
    elif arguments.action == "list":
        print(listing() if arguments.name is None else full_card(data.card(arguments.name)))
    else:
        raise UserError(f"data: got '{arguments.action}', expected list or get")


def listing() -> str:
    """One line per data set: name, size, where it is, title."""
    width = max(map(len, data.DATASETS))
    return "\n".join(
        f"{card.name:{width}}  {_size(card):>11}  {_place(card):9}  {card.title}" for card in data.DATASETS.values()
    )


def full_card(card: data.DataSet) -> str:
    """Everything known about one data set."""
    lines = {
        "name": card.name,
        "title": card.title,
        "source": card.source,
        "licence": card.licence,
        "size": _size(card),
        "sha256": "none, there is no file" if card.made else f"{card.sha256} (of {card.local or card.url})",
    }
    if card.carrier is not None:
        lines["carrier"] = (
            f"{card.carrier.requirement} on PyPI, {card.carrier.megabytes} MB, sha256 {card.carrier.sha256}"
        )
        if card.sha256 is None:
            lines["sha256"] = "not known for the file; that of the carrier is checked"
    elif card.git_blob is not None:
        lines["sha256"] = f"not known; git blob id {card.git_blob} (of {card.url}) is checked"
    elif card.sha256 is None and not card.made:
        lines["sha256"] = "checksum not known: pass --sha256, or verify the file yourself"
    addresses = {"address": card.url, "page": card.page, "substitute": card.substitute}
    lines |= {name: text for name, text in addresses.items() if text}
    place = _place(card)
    lines["on this machine"] = str(data.resolve(card.name)) if place == "here" else f"no; {place}"
    return "\n".join(f"{name:15}  {value}" for name, value in lines.items())


def _place(card: data.DataSet) -> str:
    """`here`, or how to get it: `get`, `web` (by hand), `own copy`, or `made` when it is used."""
    if card.made:
        return "made"
    try:
        data.resolve(card.name)
    except UserError:
        return "get" if card.carrier or card.url else "web" if card.page else "own copy"
    return "here"


def _size(card: data.DataSet) -> str:
    return "? MB" if card.megabytes is None else f"{card.megabytes:.2f} MB"
