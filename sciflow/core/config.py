"""Components that remember how they were built, so that a checkpoint rebuilds them without YAML, data or pickles.

A component derives from `Configurable`; its constructor arguments are recorded. `to_config` turns it into
`{"class_path": ..., "init_args": {...}}` made of plain JSON types (nested components included), `from_config`
turns that back into the object. Only subclasses of `Configurable` are ever called. A file can name any module on
your own path, and importing it runs its top level; it cannot bring code of its own.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from sciflow.core.errors import UserError


class Configurable:
    """Mixin that records the arguments of the outermost `__init__` as `init_args`."""

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            return
        init = cls.__init__
        signature = inspect.signature(init)

        @functools.wraps(init)
        def recording(self: Any, *args: Any, **kwargs: Any) -> None:
            if "init_args" not in self.__dict__:  # a parent's __init__ must not overwrite the child's record
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                record: dict[str, Any] = dict(list(bound.arguments.items())[1:])
                for name, parameter in signature.parameters.items():
                    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                        record.update(record.pop(name, {}))
                self.__dict__["init_args"] = record
            init(self, *args, **kwargs)

        setattr(cls, "__init__", recording)  # noqa: B010 (a plain assignment confuses type checkers)


def to_config(value: Any) -> Any:
    """Plain JSON form of a component, or of a list, dict or scalar that holds components.

    Raises:
        TypeError: A value is neither a component nor a JSON type.
    """
    if isinstance(value, Configurable):
        arguments = {name: to_config(v) for name, v in getattr(value, "init_args", {}).items()}
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": arguments}
    if isinstance(value, Mapping):
        return {str(name): to_config(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot store {type(value).__name__} in a checkpoint; expected a Configurable or plain JSON types")


def from_config(config: Any) -> Any:
    """Build what `to_config` described.

    Raises:
        UserError: The class cannot be imported, is not a `Configurable`, or refuses the arguments.
    """
    if isinstance(config, Mapping):
        if "class_path" not in config:
            return {name: from_config(v) for name, v in config.items()}
        cls = import_class(config["class_path"])
        arguments = {name: from_config(v) for name, v in config.get("init_args", {}).items()}
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{config['class_path']} refuses its arguments {sorted(arguments)}: {error}") from error
    if isinstance(config, (list, tuple)):
        return [from_config(v) for v in config]
    return config


def import_class(path: str) -> type[Configurable]:
    """The `Configurable` class at a dotted path.

    Raises:
        UserError: No such class, or not a `Configurable`.
    """
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot find class '{path}' ({error}); expected a dotted path like package.module.Class"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise UserError(f"'{path}' is not a sciflow component; expected a subclass of sciflow.core.config.Configurable")
    return cls
