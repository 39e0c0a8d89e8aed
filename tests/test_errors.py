"""Errors keep their three lines on the way from one of our processes to another."""

import pickle

import pytest

from rhtool.errors import ConfigError, MissingExtra, RhtoolError


@pytest.mark.parametrize("error", [RhtoolError("a", "b", "c"), ConfigError("a", "b"), MissingExtra("rl", "ray")])
def test_an_error_is_the_same_on_the_other_side_of_a_pickle(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert (again.what, again.where, again.mend) == (error.what, error.where, error.mend)
