import chex
import numpy as np
import pytest

from tests.golden.make_dqn_steps import CASES, FILE, run


@pytest.mark.parametrize("name", CASES)
def test_25_train_steps_leave_what_they_left_in_the_first_version(name: str) -> None:
    golden = np.load(FILE)
    expected = {key.partition("/")[2]: golden[key] for key in golden if key.startswith(f"{name}/")}
    got = run(name)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        if np.issubdtype(value.dtype, np.integer):  # actions, endings and pixels of the replay
            np.testing.assert_array_equal(got[key], value, err_msg=key)
    # Other CPUs and compilers round otherwise.
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)
