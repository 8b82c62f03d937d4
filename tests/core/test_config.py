"""Configurable: what was built is recorded, stored as JSON and built again; nothing else is ever called."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sciflow.core.config import Configurable, from_config, import_class, to_config
from sciflow.core.errors import UserError
from sciflow.core.grids import LogSNR
from sciflow.core.schedules import VE, VP
from sciflow.core.spaces import SymmetricMatrix
from sciflow.core.time_laws import LogSNRTime
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.adaptive import Adaptive
from sciflow.solvers.heun import Heun


class Parent(Configurable):
    def __init__(self, size: int, name: str = "parent") -> None:
        self.size, self.name = size, name


class Child(Parent):
    def __init__(self, extra: float, parts: list[Parent] | None = None, **options: Any) -> None:
        super().__init__(size=7)
        self.extra, self.parts, self.options = extra, parts, options


class Plain(Parent):
    """No constructor of its own."""


def round_trip(value: Any) -> Any:
    return from_config(json.loads(json.dumps(to_config(value))))


def test_defaults_and_keywords_are_recorded():
    assert to_config(Parent(3))["init_args"] == {"size": 3, "name": "parent"}
    assert to_config(Plain(3, name="b")) == {
        "class_path": f"{__name__}.Plain",
        "init_args": {"size": 3, "name": "b"},
    }


def test_parent_constructor_does_not_overwrite_the_record_of_the_child():
    child = Child(0.5, colour="red")
    assert child.init_args == {"extra": 0.5, "parts": None, "colour": "red"}
    assert child.size == 7


def test_records_belong_to_the_object():
    first, second = Parent(1), Parent(2)
    assert (first.init_args["size"], second.init_args["size"]) == (1, 2)


@pytest.mark.parametrize(
    "component",
    [
        GaussianProcess(VE(0.1, 1.0), SymmetricMatrix(), "score", prior_std=2.0),
        Anchored(GaussianProcess(VP(0.2, 5.0), kind="data")),
        LogSNR(VP(), end=1e-4),
        LogSNRTime(VE(), low=0.1),
        Adaptive(Heun(), tolerance=1e-6),
    ],
    ids=lambda component: type(component).__name__,
)
def test_components_come_back_from_json(component):
    again = round_trip(component)
    assert type(again) is type(component)
    assert to_config(again) == to_config(component)


def test_a_rebuilt_process_computes_the_same():
    process = GaussianProcess(VP(0.3, 7.0), kind="v")
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    again = round_trip(process)
    assert torch.equal(again.schedule.alpha(t), process.schedule.alpha(t)) and again.kind == "v"


def test_containers_of_components():
    again = round_trip({"fields": [Parent(1), {"deep": Parent(2)}], "number": 1.5, "none": None, "flag": True})
    assert again["fields"][0].size == 1 and again["fields"][1]["deep"].size == 2
    assert (again["number"], again["none"], again["flag"]) == (1.5, None, True)


def test_values_that_are_not_json_are_refused():
    with pytest.raises(TypeError, match="Tensor"):
        to_config(Parent(torch.ones(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "pathlib.Path",
        "sciflow.core.config.import_class",
        "sciflow.core.config.Missing",
        "no_such_module.Class",
        "nodots",
        "",
        ".relative.Class",
    ],
)
def test_only_components_are_built(path):
    with pytest.raises(UserError):
        import_class(path)
    with pytest.raises(UserError):
        from_config({"class_path": path, "init_args": {}})


def test_wrong_arguments_name_the_class():
    with pytest.raises(UserError, match=r"VP refuses its arguments \['beta'\]"):
        from_config({"class_path": "sciflow.core.schedules.VP", "init_args": {"beta": 1}})
