"""The random streams against values drawn by Caffe (rng.npz, dropout.npz) and by Boost 1.74 (boost.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe.backend import random
from minicaffe.backend.random import Stream
from minicaffe.errors import SnapshotError

GOLDEN = Path(__file__).parent / "golden" / "rng"
CAFFE = np.load(GOLDEN / "rng.npz")
DROPOUT = np.load(GOLDEN / "dropout.npz")
BOOST = np.load(GOLDEN / "boost.npz")
SEEDS = (1, 1701)


def test_first_draw_and_ten_thousandth_draw_are_those_of_mt19937():
    # the C++ standard fixes the 10000th output of a default-constructed mt19937, whose seed is 5489
    stream = Stream(5489)
    assert stream.draw() == 3499211612
    assert stream.draws(9999)[-1] == 4123659995


def test_seed_is_reduced_to_32_bits():
    assert Stream(2**32 + 7).draw() == Stream(7).draw()
    assert Stream(-1).draw() == Stream(2**32 - 1).draw()


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_is_caffes(seed):
    expected = CAFFE[f"uniform__seed{seed}"].ravel()
    assert np.array_equal(Stream(seed).uniform(-1, 2, expected.size), expected)


def test_uniform_draws_again_where_rounding_reaches_the_open_end():
    # 5 and the next float32 are the only values of [5, nextafter(5)]; the second one is outside
    stream = Stream(3)
    assert np.all(stream.uniform(5, 5, 1000) == 5)
    assert stream.draw() not in Stream(3).draws(1001)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (0, np.inf), (np.nan, 1), (-3e38, 3e38)])
def test_uniform_refuses_an_impossible_range(low, high):
    with pytest.raises(ValueError, match="low <= high"):
        Stream(1).uniform(low, high, 4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ratio", ["0.5", "0.4", "0.2"])
def test_bernoulli_gives_caffes_dropout_masks(seed, ratio):
    keep = 1 - np.float32(ratio)
    stream = Stream(seed)
    for key in ("y", "y2"):
        expected = DROPOUT[f"{key}__ratio{ratio}__seed{seed}"]
        assert np.array_equal(stream.bernoulli(keep, expected.size), expected.ravel() != 0)


def test_bernoulli_takes_no_draw_for_probability_zero():
    stream = Stream(1)
    assert not stream.bernoulli(0, 10).any()
    assert stream.draw() == Stream(1).draw()
    assert stream.bernoulli(1, 1000).all()


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan])
def test_bernoulli_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Stream(1).bernoulli(probability, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_gaussian_is_caffes(seed):
    expected = CAFFE[f"gaussian__seed{seed}"].ravel()
    assert np.array_equal(Stream(seed).gaussian(0.5, 2, expected.size), expected)


def test_gaussian_is_boosts_over_400000_samples_and_their_tails():
    stream = Stream(7)
    samples = stream.gaussian(0, 1, 400_000)
    assert np.array_equal(samples[::400], BOOST["normal_every_400th"])
    assert np.array_equal(np.flatnonzero(np.abs(samples) > 3.45), BOOST["normal_tail_index"])
    assert np.array_equal(samples[BOOST["normal_tail_index"]], BOOST["normal_tail"])
    assert stream.draw() == BOOST["normal_next_draw"]


def test_exponential_is_boosts():
    stream = Stream(7)
    tape = random._Tape(stream.draws(20_000), stream)
    samples = np.array([random._exponential(tape) for _ in range(20_000)])
    assert np.array_equal(samples[::100], BOOST["exponential_every_100th"])
    assert np.array_equal(np.flatnonzero(samples > 7.7), BOOST["exponential_tail_index"])
    assert np.array_equal(samples[BOOST["exponential_tail_index"]], BOOST["exponential_tail"])


@pytest.mark.parametrize("block", [1, 7])
def test_gaussian_does_not_depend_on_how_draws_are_blocked(monkeypatch, block):
    whole = Stream(11)
    expected, following = whole.gaussian(0, 1, 10_000), whole.draw()
    monkeypatch.setattr(random, "_BLOCK", block)
    blocked = Stream(11)
    assert np.array_equal(blocked.gaussian(0, 1, 10_000), expected)
    assert blocked.draw() == following


def test_gaussian_skips_a_height_that_rounds_to_one():
    # layer 1 (bits 2), x at its outer edge: outside the rectangle; the next draw rounds to the height 1 and is skipped,
    # the one after it is the height 0, which lies under the curve
    stream = Scripted(0xFFFFFF02, 0xFFFFFFFF, 0x00000000)
    outer = random._normal_ziggurat().outer[1]
    assert stream.gaussian(0, 1, 1)[0] == -outer * np.float32(1 - 2**-24)
    assert stream.remaining == []

    stream = Scripted(0xFFFFFF02, 0xFFFFFFFF, 0x00000000, 0x00000003)  # the same inside a block of two
    assert stream.gaussian(0, 1, 2)[0] == -outer * np.float32(1 - 2**-24)
    assert stream.remaining == []


@pytest.mark.parametrize("draw", [0xFD2B48AB, 0xF4E44305, 0xFAF1BBD6])
def test_gaussian_compares_with_the_unrounded_edge_of_the_inner_layer(draw):
    # Boost takes each of these draws (numbers 7.8, 8.3 and 34 million after seeds 3, 4, 5) for a sample at once,
    # though x equals the edge rounded down to float32
    assert Scripted(draw).gaussian(0, 1, 1).size == 1


@pytest.mark.parametrize("ziggurat", [random._normal_ziggurat(), random._exponential_ziggurat()])
def test_ziggurat_layers_have_equal_areas_and_end_at_the_top_of_the_curve(ziggurat):
    areas = ziggurat.outer[1:].astype(float) * ziggurat.height[1:]
    assert np.allclose(areas, areas[0], rtol=1e-6)
    assert np.isclose(ziggurat.bottom[-1] + ziggurat.height[-1], 1, rtol=1e-7)


def test_shuffle_is_the_fisher_yates_of_boosts_uniform_int():
    stream = Stream(7)
    items = list(range(1000))
    stream.shuffle(items)
    assert items == BOOST["shuffle"].tolist()
    assert stream.draw() == BOOST["shuffle_next_draw"]


@pytest.mark.parametrize("items", [[], [4]])
def test_shuffle_of_at_most_one_item_takes_no_draw(items):
    stream = Stream(7)
    stream.shuffle(items)
    assert stream.draw() == Stream(7).draw()


def test_state_continues_the_stream():
    stream = Stream(1)
    stream.draws(1000)
    state = stream.get_state()
    expected = stream.gaussian(0, 1, 100)
    other = Stream(2)
    other.set_state(state)
    assert np.array_equal(other.gaussian(0, 1, 100), expected)


@pytest.mark.parametrize("damaged", [b"", bytes(2496), bytes(2496) + (625).to_bytes(4, "little")])
def test_a_damaged_state_is_refused(damaged):
    with pytest.raises(SnapshotError, match="random stream"):
        Stream(1).set_state(damaged)


def test_seed_restarts_the_process_wide_stream():
    random.seed(1701)
    assert random.stream().draw() == Stream(1701).draw()
    assert random.stream() is random.stream()


def test_process_wide_stream_starts_from_entropy(monkeypatch):
    monkeypatch.setattr(random, "_stream", None)
    first = random.stream().draws(4)
    monkeypatch.setattr(random, "_stream", None)
    assert not np.array_equal(random.stream().draws(4), first)


class Scripted(Stream):
    """A stream whose engine gives the listed draws; ``remaining`` are those not taken yet."""

    def __init__(self, *draws: int) -> None:
        self.remaining = list(draws)

    def draws(self, n: int) -> np.ndarray:
        taken, self.remaining = self.remaining[:n], self.remaining[n:]
        assert len(taken) == n
        return np.array(taken, np.uint32)
