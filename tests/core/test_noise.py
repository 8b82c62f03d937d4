"""Noise: Philox known answers, laws of the numbers, and that sample i depends on (seed, i) only.

Statistical tests are Kolmogorov-Smirnov and z tests with a false-alarm rate of 1e-5 each, on fixed seeds.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.noise import PRIOR, BrownianPath, Fresh, Move, PerSample, Recorder, Replay, Rotated, philox
from sciflow.core.spaces import SymmetricMatrix
from sciflow.core.state import Layout

MOVE = Move(3, 0.5, 0.4)


def ks_distance(u: Tensor) -> float:
    """sqrt(n) times the distance to U(0, 1); exceeds 2.47 with probability 1e-5 = 2 exp(-2 2.47^2)."""
    u = u.double().flatten().sort().values
    n = len(u)
    grid = torch.arange(n, dtype=torch.float64) / n
    return math.sqrt(n) * float(torch.maximum((u - grid).abs(), (u - grid - 1 / n).abs()).max())


def cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z.double() / math.sqrt(2)))


@pytest.mark.golden
@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Vectors of the Random123 distribution (kat_vectors, philox4x32 with 10 rounds)."""
    words = philox(*(torch.tensor([c] * 3) for c in counter), *key)
    assert [w.tolist() for w in words] == [[e] * 3 for e in expected]


@pytest.mark.parametrize("noise", [Fresh(1), PerSample(1)], ids=["fresh", "per_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_and_normals_have_their_law(noise, dtype):
    like, layout = torch.empty(500, 7, 6, dtype=dtype), Layout(500)
    u = noise.at("x", MOVE).uniform(like, layout)
    z = noise.at("y", MOVE).normal(like, layout)
    assert u.dtype == z.dtype == dtype and u.shape == like.shape
    assert u.min() > 0 and u.max() < 1
    assert ks_distance(u) < 2.47
    assert ks_distance(cdf(z)) < 2.47
    assert ks_distance(cdf(1.15 * z)) > 2.47  # the test has the power to see an error of the scale
    # neighbours in every dimension are uncorrelated: z tests at 1e-5, the mean of n products has deviation 1/sqrt(n)
    for dim in range(3):
        a, b = z.narrow(dim, 0, z.shape[dim] - 1), z.narrow(dim, 1, z.shape[dim] - 1)
        assert abs(float((a * b).mean())) * math.sqrt(a.numel()) < 4.42


@pytest.mark.parametrize("noise", [Fresh(1), PerSample(1)], ids=["fresh", "per_sample"])
def test_integer_fields_get_default_floats(noise):
    u = noise.at("x", MOVE).uniform(torch.zeros(3, 4, dtype=torch.long), Layout(3))
    assert u.dtype == torch.get_default_dtype()


def test_numbers_of_a_sample_do_not_depend_on_the_batch():
    """Alone, in a batch of 64, by offset, by explicit ids: the same bits."""
    like = torch.empty(64, 5, 3)
    whole = PerSample(11).at("x", MOVE).normal(like, Layout(64))
    for i in (0, 17, 63):
        alone = PerSample(11, i).at("x", MOVE).normal(like[:1], Layout(1))
        assert torch.equal(alone[0], whole[i])
    part = PerSample(11, 10).at("x", MOVE).normal(like[:20], Layout(20))
    assert torch.equal(part, whole[10:30])
    chosen = torch.tensor([40, 3, 3])
    assert torch.equal(PerSample(11, chosen).at("x", MOVE).normal(like[:3], Layout(3)), whole[chosen])
    far = 2**32 + 5  # indices beyond 32 bits do not wrap around
    assert not torch.equal(PerSample(11, far).at("x", MOVE).normal(like[:1], Layout(1))[0], whole[5])


@pytest.mark.parametrize("padding", [1, 3, 10])
def test_numbers_do_not_depend_on_padding(padding):
    small = PerSample(2).at("x", MOVE).normal(torch.empty(4, 6, 5), Layout(4))
    large = PerSample(2).at("x", MOVE).normal(torch.empty(4, 6 + padding, 5), Layout(4))
    assert torch.equal(large[:, :6], small)
    for channels in ((), (3,), (4,)):
        small = SymmetricMatrix().noise(torch.empty(4, 6, 6, *channels), Layout(4), PerSample(2).at("adj", MOVE))
        wide = torch.empty(4, 6 + padding, 6 + padding, *channels)
        large = SymmetricMatrix().noise(wide, Layout(4), PerSample(2).at("adj", MOVE))
        assert torch.equal(large[:, :6, :6], small)


def test_ragged_equals_padded_equals_alone():
    """Rows of a ragged field get the numbers of the same rows of the padded field."""
    sizes = [2, 4, 1]
    index = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    ragged = PerSample(5, 100).at("pos", MOVE).normal(torch.empty(7, 2, 3), Layout(3, index))
    padded = PerSample(5, 100).at("pos", MOVE).normal(torch.empty(3, 4, 2, 3), Layout(3))
    torch.testing.assert_close(ragged, torch.cat([padded[i, :n] for i, n in enumerate(sizes)]), rtol=0, atol=0)
    alone = PerSample(5, 101).at("pos", MOVE).normal(torch.empty(4, 2, 3), Layout(1, torch.zeros(4, dtype=torch.long)))
    assert torch.equal(alone, ragged[2:6])


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 9, 9, 4), (2, 6, 6, 3), (2, 1, 1)])
def test_upper_normals_are_the_normals_above_the_diagonal(shape):
    like, layout = torch.empty(shape), Layout(shape[0])
    upper = torch.ones(shape[1], shape[1]).triu(1).bool()
    with torch.inference_mode():  # what is cached here is used outside below
        first = PerSample(9).at("adj", MOVE).upper_normal(like, layout)
    draws = PerSample(9).at("adj", MOVE)
    std = torch.ones((), requires_grad=True)
    again = draws.upper_normal(like, layout) * std
    full = PerSample(9).at("adj", MOVE).normal(like, layout)
    assert torch.equal(first[:, upper], full[:, upper]) and torch.equal(again[:, upper], full[:, upper])
    second = draws.upper_normal(like, layout)
    assert not upper.any() or not torch.equal(second[:, upper], full[:, upper])


def test_every_label_gives_other_numbers():
    """Seed, field, move, phase, copy, sample and order of the draw: 8 streams, pairwise correlation below 4.9 sigma.

    28 pairs at 1e-6/2 each: false-alarm rate below 3e-5 together.
    """
    like, layout = torch.empty(1, 20_000, dtype=torch.float64), Layout(1)
    base = PerSample(1).at("x", MOVE)
    streams = [base.normal(like, layout), base.normal(like, layout)]
    streams += [
        PerSample(2).at("x", MOVE).normal(like, layout),
        PerSample(1).at("y", MOVE).normal(like, layout),
        PerSample(1).at("x", MOVE._replace(index=4)).normal(like, layout),
        PerSample(1).at("x", MOVE._replace(phase=1)).normal(like, layout),
        PerSample(1).at("x", MOVE, copy=1).normal(like, layout),
        PerSample(1, 1).at("x", MOVE).normal(like, layout),
    ]
    correlation = torch.corrcoef(torch.cat(streams)) - torch.eye(8, dtype=torch.float64)
    assert correlation.abs().max() * math.sqrt(20_000) < 4.9
    same = PerSample(1).at("x", MOVE).normal(like, layout)
    assert torch.equal(same, streams[0])


def test_per_sample_ids_must_match_the_batch():
    with pytest.raises(ValueError, match="3 samples, the batch has 4"):
        PerSample(0, torch.arange(3)).at("x", MOVE).normal(torch.empty(4, 2), Layout(4))


def test_fresh_depends_on_its_seed_only():
    like, layout = torch.empty(3, 4), Layout(3)
    torch.manual_seed(1)
    a = Fresh(5).at("x", PRIOR).normal(like, layout)
    torch.manual_seed(2)
    assert torch.equal(Fresh(5).at("other", MOVE).normal(like, layout), a)
    assert not torch.equal(Fresh(6).at("x", PRIOR).normal(like, layout), a)


def test_brownian_path_is_the_same_on_every_grid():
    """Increments over one long move equal the sum over short ones, in both directions of the clock."""
    path = BrownianPath((10_000,), levels=4, seed=3)
    like, layout = torch.empty(10_000, dtype=torch.float64), Layout(10_000)

    def increment(t: float, s: float) -> Tensor:
        return path.at("x", Move(0, t, s)).normal(like, layout) * abs(t - s) ** 0.5

    parts = sum(increment(k / 16, (k - 1) / 16) for k in range(12, 4, -1))
    torch.testing.assert_close(increment(0.75, 0.25), parts, rtol=0, atol=1e-13)
    torch.testing.assert_close(increment(0.25, 0.75), -parts, rtol=0, atol=1e-13)  # type: ignore[operator]
    assert ks_distance(cdf(path.at("x", Move(0, 0.75, 0.25)).normal(like, layout))) < 2.47  # false alarm 1e-5
    with pytest.raises(ValueError, match="mesh"):
        increment(0.3, 0.1)
    draws = path.at("x", Move(0, 1.0, 0.5))
    draws.normal(like, layout)
    with pytest.raises(ValueError, match="second"):
        draws.normal(like, layout)
    with pytest.raises(ValueError, match="uniforms"):
        draws.uniform(like, layout)


def test_replay_gives_back_what_was_recorded():
    recorder = Recorder(Fresh(3))
    like, layout = torch.empty(2, 3), Layout(2)
    draws = recorder.at("x", MOVE)
    first, second = draws.normal(like, layout), draws.uniform(like, layout)
    other = recorder.at("x", MOVE, copy=1).normal(like, layout)
    replay = Replay(recorder.log)
    again = replay.at("x", MOVE)
    assert torch.equal(again.normal(like, layout), first) and torch.equal(again.uniform(like, layout), second)
    assert torch.equal(replay.at("x", MOVE, copy=1).normal(like, layout), other)
    with pytest.raises(ValueError, match="more draws"):
        again.normal(like, layout)
    with pytest.raises(ValueError, match="no draw was recorded for field 'y'"):
        replay.at("y", MOVE)


def test_rotated_transforms_named_fields_only():
    like, layout = torch.empty(2, 3, 3), Layout(2)
    plain = PerSample(4)
    rotated = Rotated(plain, {"x": lambda z: z.flip(1)})
    assert torch.equal(rotated.at("x", MOVE).normal(like, layout), plain.at("x", MOVE).normal(like, layout).flip(1))
    assert torch.equal(rotated.at("y", MOVE).normal(like, layout), plain.at("y", MOVE).normal(like, layout))
