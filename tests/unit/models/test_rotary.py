"""Rotary embeddings, compared with those of transformers in tests/data/positions.npz."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from configs import rotaries
from hypothesis import given
from hypothesis import strategies as st

from polyhead_models.rotary import (
    SCALINGS,
    Rotary,
    RotaryError,
    cosines_and_sines,
    highest_position,
)

DATA = Path(__file__).parents[2] / "data" / "positions.npz"
NAMES = {
    "rope_theta": "theta",
    "rope_type": "scaling",
    "original_max_position_embeddings": "original_max_positions",
    "truncate": "is_truncated",
    "short_factor": "short_factors",
    "long_factor": "long_factors",
}
LONGROPE = {
    "dim": 4,
    "scaling": "longrope",
    "original_max_positions": 8,
    "short_factors": (1.0, 1.0),
    "long_factors": (2.0, 3.0),
}
DYNAMIC = {"dim": 4, "scaling": "dynamic", "factor": 2.0, "original_max_positions": 8}
ULP = 2.0**-23


def recorded_cases():
    with np.load(DATA) as recorded:
        cases = json.loads(str(recorded["rotary_cases"]))
        frequencies = {name: recorded[name] for name in recorded.files if "rotary/" in name}
    return cases, frequencies


CASES, FREQUENCIES = recorded_cases()


def rotary_of(case):
    """Make a Rotary from the parameters that transformers was given."""
    values = {NAMES.get(name, name): value for name, value in case["given"].items()}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    scaling = values.pop("scaling")
    return Rotary(dim=case["dim"], scaling="none" if scaling == "default" else scaling, **values)


@pytest.mark.parametrize("name", CASES)
def test_frequencies_equal_those_of_transformers(name):
    rotary = rotary_of(CASES[name])
    assert rotary.attention_factor == pytest.approx(CASES[name]["attention_factor"], rel=1e-15)
    wanted = {1: FREQUENCIES[f"rotary/{name}"]}
    length = CASES[name].get("long_length", 10**6)
    wanted[length] = FREQUENCIES.get(f"rotary/{name}/long", wanted[1])
    for length, expected in wanted.items():
        frequencies = rotary.inverse_frequencies(max_position=length - 1)
        assert frequencies.dtype == np.float32
        # two units in the last place, because float32 powers differ by one between machines, and
        # transformers rounds once more
        np.testing.assert_allclose(frequencies, expected, rtol=2 * ULP, atol=0)


def test_every_scaling_is_recorded():
    assert {rotary_of(case).scaling for case in CASES.values()} == set(SCALINGS)


def test_angles_are_rounded_to_float32():
    rotary = Rotary(dim=8)
    positions = np.array([[0, 1, 8191], [5, 2**23 + 1, 3]])
    cos, sin = cosines_and_sines(rotary, positions)
    assert cos.shape == sin.shape == (2, 3, 4)
    angles = positions.astype(np.float32)[..., None] * rotary.inverse_frequencies()
    assert angles.dtype == np.float32
    np.testing.assert_array_equal(cos, np.cos(angles.astype(np.float64)))
    np.testing.assert_array_equal(sin, np.sin(angles.astype(np.float64)))


def test_the_attention_factor_scales_cosines_and_sines():
    rotary = Rotary(dim=4, scaling="yarn", factor=4.0, original_max_positions=64)
    cos, sin = cosines_and_sines(rotary, np.arange(9))
    np.testing.assert_allclose(cos**2 + sin**2, (0.1 * math.log(4.0) + 1.0) ** 2)


def test_the_highest_position_of_a_call():
    short, long = np.array([[0, 7], [3, 1]]), np.array([8])
    assert highest_position(short, short) == 7
    assert highest_position(short, long) == highest_position(long, short) == 8
    assert highest_position(np.zeros((1, 0), np.int64)) == 0


def test_a_call_is_long_from_original_max_positions_on():
    rotary = Rotary(**LONGROPE)
    short, long = (rotary.inverse_frequencies(max_position=last) for last in (7, 8))
    np.testing.assert_array_equal(short, rotary.inverse_frequencies())
    assert (short != long).all()
    np.testing.assert_array_equal(long, np.float32(rotary.long_pair_frequencies))


def test_dynamic_frequencies_fall_with_the_length_from_original_max_positions_on():
    rotary = Rotary(dim=8, scaling="dynamic", factor=2.0, original_max_positions=8)
    assert rotary.depends_on_length
    assert rotary.pair_frequencies == rotary.long_pair_frequencies == ()
    trained = rotary.inverse_frequencies(max_position=7)
    np.testing.assert_array_equal(trained, Rotary(dim=8).inverse_frequencies())
    steep = Rotary(dim=8, scaling="dynamic", factor=1e12, original_max_positions=8)
    np.testing.assert_array_equal(steep.inverse_frequencies(max_position=7), trained)
    longer, longest = (rotary.inverse_frequencies(max_position=last) for last in (8, 99))
    assert trained[0] == longer[0] == longest[0] == 1
    assert (trained[1:] > longer[1:]).all()
    assert (longer[1:] > longest[1:]).all()


def test_given_frequencies_replace_those_of_theta():
    given_ones = Rotary(dim=4, theta=7.0, frequencies=(1.0, 0.3))
    np.testing.assert_array_equal(given_ones.inverse_frequencies(), np.float32([1.0, 0.3]))
    stretched = Rotary(dim=4, frequencies=(1.0, 0.5), scaling="linear", factor=2.0)
    np.testing.assert_array_equal(stretched.inverse_frequencies(), np.float32([0.5, 0.25]))


@given(st.data())
def test_frequencies_decrease_and_scalings_lower_them(data):
    rotary = data.draw(rotaries(16, [s for s in SCALINGS if s != "longrope"]))
    frequencies = rotary.inverse_frequencies()
    unscaled = Rotary(dim=rotary.dim, theta=rotary.theta).inverse_frequencies()
    assert len(frequencies) == rotary.dim // 2
    assert (np.diff(frequencies) < 0).all()
    assert (frequencies <= unscaled * (1 + ULP)).all()
    assert (frequencies >= unscaled / rotary.factor * (1 - ULP)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 3}, "dim is 3; it must be even"),
        ({"dim": 0}, "dim is 0"),
        ({"scaling": "ntk"}, "'ntk'; expected one of none, linear, dynamic, llama3, yarn, lo"),
        ({"scaling": "llama3"}, "llama3 needs original_max_positions"),
        ({"scaling": "yarn"}, "yarn needs original_max_positions"),
        ({"scaling": "dynamic"}, "dynamic needs original_max_positions"),
        (DYNAMIC | {"dim": 2}, "dynamic changes theta, so it needs a dim of at least 4"),
        (DYNAMIC | {"frequencies": (1.0, 0.5)}, "dynamic changes theta, .* and no frequencies"),
        (LONGROPE | {"original_max_positions": 0}, "longrope needs original_max_positions"),
        ({"theta": 0.0}, "theta is 0.0"),
        ({"theta": 1.0}, "theta is 1.0; it must be above 1"),
        ({"theta": math.inf}, "theta is inf"),
        ({"factor": -2.0}, "factor is -2.0"),
        ({"factor": math.nan, "scaling": "yarn", "original_max_positions": 8}, "factor is nan"),
        ({"attention_factor": -1.0}, "attention_factor is -1.0"),
        ({"low_freq_factor": 4.0}, "high_freq_factor is 4.0; it must be above low_freq_factor"),
        ({"beta_slow": 40.0}, "beta_fast is 32.0; it must be above beta_slow, 40.0"),
        ({"short_factors": (1.0, 1.0)}, "are for scaling longrope"),
        (LONGROPE | {"long_factors": (1.0,)}, "long_factors has 1 entries; expected dim / 2 = 2"),
        (LONGROPE | {"short_factors": (1.0, 0.0)}, "short_factors is 0.0; it must be positive"),
        ({"frequencies": (1.0,)}, "frequencies has 1 entries; expected dim / 2 = 2"),
        ({"frequencies": (1.0, -0.5)}, "frequencies is -0.5; it must be positive"),
        ({"original_max_positions": -1}, "original_max_positions is -1; it must not be negative"),
        ({"factor": 1e-308}, "factor is 1e-308; it must be positive, from 1e-09 to 1e"),
        ({"theta": 1e308}, "theta is 1e\\+308"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(RotaryError, match=message):
        Rotary(**({"dim": 4} | values))
