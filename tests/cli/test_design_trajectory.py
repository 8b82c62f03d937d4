"""`sciflow design trajectory` with a model whose law is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from trajectory_model import gaussian_model
from trajectory_toy import chain_molecule, random_points

from sciflow.domains.trajectories.data import Trajectory
from sciflow.domains.trajectories.files import read_trajectories, save_npz, write_trajectories

FRAMES = 12
CHAIN = chain_molecule(frames=FRAMES, atoms=4)
GRID = replace(CHAIN, positions=np.round(CHAIN.positions * 2048) / 2048)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "chain.safetensors"
    gaussian_model(CHAIN, scale=0.1).save(path)
    return path


@pytest.fixture
def observed(tmp_path):
    save_npz(tmp_path / "run.npz", [GRID])
    return tmp_path / "run.npz"


def stored(path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def words(model, observed, out, *more):
    return ("design", "trajectory", "--model", model, "--observed", observed, "--out", out, *more)


def test_a_forecast_with_errors_baselines_and_report(command, model, observed, tmp_path):
    out, page = tmp_path / "out.npz", tmp_path / "r.html"
    code, printed, err = command(*words(model, observed, out, "--mask", "0:3", "--num", 5, "--report", page))
    assert code == 0, err
    assert "ours, mean of 5" in printed and "constant velocity" in printed and "wrote 5 trajectories" in printed
    found = stored(out)
    assert found["R"].shape == (5, 8, 4, 3) and found["R"].dtype == np.float64 and float(found["dt_fs"]) == 5.0
    assert found["observed"].tolist() == [True] * 3 + [False] * 5 and found["z"].tolist() == CHAIN.numbers.tolist()
    assert np.array_equal(found["R"][:, :3], np.repeat(GRID.positions[None, :3], 5, 0))
    side = json.loads((tmp_path / "out.npz.json").read_text())
    free = np.linalg.norm(found["R"][:, 3:] - GRID.positions[3:8], axis=-1)
    assert side["scores"]["aveADE"]["value"] == pytest.approx(free.mean(), rel=1e-6)
    assert side["seed"] == 0 and side["steps"] == 4 and side["mask"] == "0:3"
    assert "<svg" in page.read_text() and "RMSF" in page.read_text()
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out.npz.parts").exists()


def test_interpolation_to_text_formats(command, model, observed, tmp_path):
    for ending in ("extxyz", "pdb"):
        out = tmp_path / f"out.{ending}"
        code, printed, err = command(*words(model, observed, out, "--mask", "0:2,6:8", "--num", 2))
        assert code == 0, err
        assert "linear interpolation" in printed
        found, _ = read_trajectories(out)
        assert len(found) == 2 and found[1].observed is not None and found[1].observed.sum() == 4
        np.testing.assert_allclose(found[1].positions[6:], GRID.positions[6:8], atol=6e-4)


def test_a_thousand_angstrom_away(command, model, observed, tmp_path):
    save_npz(tmp_path / "far.npz", [replace(GRID, positions=GRID.positions + 1000)])
    for name in ("run", "far"):
        code, _, err = command(*words(model, tmp_path / f"{name}.npz", tmp_path / f"{name}_out.npz", "--mask", "0:3"))
        assert code == 0, err
    near, far = (stored(tmp_path / f"{name}_out.npz")["R"] for name in ("run", "far"))
    np.testing.assert_allclose(far - 1000, near, atol=1e-5)


def test_the_first_samples_of_a_longer_run_are_those_of_a_short_one(command, model, observed, tmp_path):
    for number, size in ((2, 64), (5, 2)):
        command(
            *words(model, observed, tmp_path / f"{number}.npz", "--mask", "0:3", "-n", number, "--batch-size", size)
        )
    np.testing.assert_allclose(stored(tmp_path / "5.npz")["R"][:2], stored(tmp_path / "2.npz")["R"], atol=1e-5)


def test_a_killed_roll_out_goes_on(command, model, observed, tmp_path, monkeypatch):
    long = ("--mask", "0:3", "--blocks", 4, "--num", 3, "--batch-size", 2)
    assert command(*words(model, observed, tmp_path / "whole.npz", *long))[0] == 0
    assert stored(tmp_path / "whole.npz")["R"].shape == (3, 23, 4, 3)
    from sciflow.model import Model

    real, calls = Model.generate, []

    def dies(self, *args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(Model, "generate", dies)
    out = tmp_path / "again.npz"
    code, _, err = command(*words(model, observed, out, *long))
    assert code == 130 and not out.exists() and len(list((tmp_path / "again.npz.parts").glob("block*"))) == 3
    assert "other settings" in command(*words(model, observed, out, *long, "--seed", 1))[2]
    code, printed, _ = command(*words(model, observed, out, *long))
    assert code == 0 and "resuming: 3 finished parts" in printed
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_refinement_moves_more_the_more_is_noised(command, model, observed, tmp_path):
    moved = []
    for clock in (0.05, 0.5):
        out = tmp_path / f"{clock}.npz"
        code, printed, err = command(*words(model, observed, out, "--mask", "0:3", "--refine", clock))
        assert code == 0, err
        assert "from the rough ones on average" in printed
        moved.append(json.loads((tmp_path / f"{clock}.npz.json").read_text())["displacement"])
        assert stored(out)["R"].shape == (1, FRAMES, 4, 3)
    assert moved[0] < moved[1] / 2


def test_guided_bonds_are_held(command, model, observed, tmp_path):
    found = {}
    for name, more in (("free", ("--width", 1e6)), ("held", ("--width", 0.02))):
        out = tmp_path / f"{name}.npz"
        guide = ("--guide", "bonds", *more, "--steps", 40)
        code, printed, err = command(*words(model, observed, out, "--mask", "0:3", *guide))
        assert code == 0, err
        assert "bond rms deviation" in printed
        found[name] = json.loads((tmp_path / f"{name}.npz.json").read_text())["guide_figures"]["bond rms deviation"]
    assert found["held"] < 0.04 < found["free"] / 2


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--mask", "0:8"), "all 8 frames are observed"),
        (("--mask", "3:3"), "no frame is observed"),
        (("--mask", "0:3,11"), "frames of 0 to 7"),
        ((), "say which of them are observed"),
        (("--mask", "0:3", "--num", 0), "at least 1"),
        (("--mask", "0:3", "--refine", 1.5), "between 0"),
        (("--mask", "0:3", "--width", 1), "give --guide"),
        (("--mask", "0:3", "--guide", "bonds", "--lengths", "0:1"), "0-1=1.54"),
        (("--mask", "0:3", "--guide", "bonds", "--solver", "DDIM"), "stochastic"),
        (("--mask", "0:3", "--guide", "warmth"), "module:function"),
        (("--mask", "0:3", "--solver", "Nothing"), "unknown solver"),
        (("--mask", "0,2,4", "--blocks", 2), "continues its first frames"),
    ],
)
def test_mistakes_in_options(refused, model, observed, tmp_path, more, message):
    assert message in refused(*words(model, observed, tmp_path / "out.npz", *more))
    assert not (tmp_path / "out.npz").exists()


def broken(positions: np.ndarray) -> np.ndarray:
    positions = positions.copy()
    positions[4, 1] = np.nan
    return positions


def together(positions: np.ndarray) -> np.ndarray:
    positions = positions.copy()
    positions[1, 2] = positions[1, 0]
    return positions


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (replace(CHAIN, positions=broken(CHAIN.positions)), "frame 4 holds NaN"),
        (replace(CHAIN, positions=together(CHAIN.positions)), "atoms 0 and 2 lie on the same place in frame 1"),
        (CHAIN.select([0]), "single frame"),
        (random_points(frames=FRAMES, atoms=4, dims=2), "2-D"),
        (random_points(frames=FRAMES, atoms=4), "got points"),
        (replace(CHAIN, numbers=np.array([6, 7, 17, 1])), "got Cl"),
    ],
)
def test_files_that_cannot_be_used(refused, model, tmp_path, one: Trajectory, message):
    save_npz(tmp_path / "bad.npz", [one])
    assert message in refused(*words(model, tmp_path / "bad.npz", tmp_path / "out.npz", "--mask", "0:3"))


def test_changing_atoms_and_wrong_models(refused, model, tiny_model, observed, tmp_path):
    write_trajectories(tmp_path / "bad.xyz", [CHAIN])
    text = (tmp_path / "bad.xyz").read_text().splitlines()
    (tmp_path / "bad.xyz").write_text("\n".join([*text[:6], "3", *text[7:11], *text[12:]]) + "\n")
    assert "bad.xyz" in refused(*words(model, tmp_path / "bad.xyz", tmp_path / "out.npz", "--mask", "0:3"))
    assert "expected one of trajectories" in refused(*words(tiny_model, observed, tmp_path / "out.npz"))
    assert "--out" in refused(*words(model, observed, tmp_path / "out.dcd", "--mask", "0:3"))
