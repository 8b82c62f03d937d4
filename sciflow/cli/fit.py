"""fit, validate, test: the Lightning command line with sciflow's defaults."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import traceback
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from sciflow.core.errors import UserError
from sciflow.training.callbacks import EMA


class SciflowCLI(LightningCLI):
    """LightningCLI in which the command line beats the config file, and both beat what a checkpoint remembers.

    Every run averages its weights (`--ema.decay`) and writes `last.ckpt` after each epoch (`--checkpoint.*`);
    callbacks in the user's YAML come on top and do not replace these.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Averaging and the checkpoint for resuming are part of every run."""
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "last",
                "checkpoint.save_on_train_epoch_end": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would merge a checkpoint's hyper-parameters OVER the command line."""

    def before_instantiate_classes(self) -> None:
        """Refuse a bad checkpoint before anything is read or built."""
        check_checkpoint(self.config[str(self.subcommand)].get("ckpt_path"))


def run(words: Sequence[str]) -> int:
    """Run one of Lightning's subcommands."""
    import_components()
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*(treespec, LeafSpec|does not have many workers|logging interval).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    torch.set_float32_matmul_precision("high")
    try:
        _start(words)
    except ArgumentError as error:
        raise UserError(_short(error.message)) from None
    except UserError:
        raise
    except (ValueError, MisconfigurationException) as error:
        raise UserError(_short(str(error)) + _place(error)) from error
    return 0


def check_checkpoint(path: str | Path | None) -> None:
    """Check that `--ckpt_path` names a whole file; Lightning's own words (last, best, hpc) and addresses pass.

    Raises:
        UserError: No such file, or one that is cut off or no checkpoint.
    """
    if path is None or str(path) in ("last", "best", "hpc") or ":" in str(path):
        return
    if not Path(path).is_file():
        raise UserError(f"--ckpt_path: no file '{path}'; give a .ckpt file, or leave it out to start anew")
    if not zipfile.is_zipfile(path):  # the directory of a zip file stands at its end: a part of one has none
        raise UserError(
            f"--ckpt_path: '{path}' is cut off or no checkpoint; give an older one, or leave it out to start anew"
        )


def _start(words: Sequence[str]) -> None:
    SciflowCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}},
            "enable_model_summary": False,
        },
        parser_kwargs={"exit_on_error": False},
        args=list(words),
    )


def _place(error: Exception) -> str:
    """Where a mistake in one's own components was noticed; nothing for what the command line itself refused."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    known = {"jsonargparse", "lightning"} & set(Path(frame.filename).parts)
    return "" if known else f" ({type(error).__name__} in {frame.filename}, line {frame.lineno})"


def _short(message: str) -> str:
    """The last cause that a parser's nested message names, without the dump of the whole configuration."""
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [
        line for line in lines if line and not line.startswith(("Given value", "Subtypes", "Expected a <class 'None"))
    ]
    path = [line.split("'")[1] for line in lines if line.startswith("Problem with given class_path")]
    keys = [line.split('"')[1] for line in lines if line.startswith("Parser key")]
    where = [f"option '{keys[-1]}'"] if keys and not lines[-1].startswith("Parser key") else []
    where += [f"of {path[-1]}"] if path else []
    return f"{lines[-1]} ({' '.join(where)})" if where else lines[-1]


def import_components() -> None:
    """Import all components, so that short class names work in YAML."""
    for package in ("core", "processes", "solvers", "objectives", "couplings", "guidance", "training"):
        module = importlib.import_module(f"sciflow.{package}")
        for info in pkgutil.iter_modules(module.__path__):
            importlib.import_module(f"sciflow.{package}.{info.name}")
