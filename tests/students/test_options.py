"""Whatever an option of a file is, it is read as a plain value or refused in one short line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.options import read_options
from students import options

TABLES = {
    "generator": options.GENERATOR,
    "mapping": options.MAPPING,
    "synthesis": options.SYNTHESIS,
    "discriminator": {**options.DISCRIMINATOR, **options.DISCRIMINATOR_OPTIONS},
    "block": options.DISCRIMINATOR_BLOCK,
    "epilogue": options.DISCRIMINATOR_EPILOGUE,
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 10),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.floats(), st.integers(0, 3), st.text(max_size=1)), max_size=4),
    st.sampled_from(["skip", "lrelu", np.float32(0.5), np.int64(4), np.bool_(True), 10**400]),
    st.sampled_from(
        [torch.zeros(2), np.zeros(2), {}, {1: 2}, (1, 2), [[1, 2], [3, 4]], b"", set()]
    ),
)


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
def test_any_value_is_read_or_refused_in_one_line_that_names_the_option(table, data):
    name = data.draw(st.sampled_from(sorted(TABLES[table])))
    value = data.draw(ODD)
    try:
        read = read_options({name: value}, TABLES[table], "place")
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"place: {name} is ")
        assert "; allowed: " in message and "\n" not in message and len(message) < 300
    else:
        assert read[name] is None or isinstance(read[name], (bool, int, float, str, list, dict))


@pytest.mark.parametrize(
    "taps",
    [
        [1, 3, 3, 1],
        (1.0, 2.0),
        [[1, 2], [3, 4]],
        ((1,), (2,)),
        [np.float64(0.5)],
        [1] * options.MAX_TAPS,
    ],
)
def test_a_filter_is_a_list_of_numbers_or_of_rows(taps):
    assert options.taps(taps) == [list(row) if isinstance(row, tuple) else row for row in taps]


@pytest.mark.parametrize(
    "taps",
    [
        [],
        [[]],
        [[1], [1, 2]],
        [1, [2]],
        [[1], 2],
        [0, 0],
        [1, -1],
        ["a"],
        "1331",
        3,
        [float("nan")],
        [[[1]]],
        [1] * (options.MAX_TAPS + 1),
        [[1] * (options.MAX_TAPS + 1)],
        [1e-60],
    ],
)
def test_what_makes_no_filter_is_refused(taps):
    with pytest.raises(ValueError, match=f"up to {options.MAX_TAPS} numbers"):
        options.taps(taps)


def test_the_options_that_published_files_name_are_all_read():
    """Every option of the originals' training script (StyleGAN2-ADA's train.py)."""
    said = {
        "channel_base": 16384,
        "channel_max": 512,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "fp16_channels_last": True,
    }
    assert read_options(said, options.SYNTHESIS, "") == said
    assert read_options({"num_layers": 2}, options.MAPPING, "") == {"num_layers": 2}
    epilogue = {"mbstd_group_size": 32}
    assert read_options(epilogue, options.DISCRIMINATOR_EPILOGUE, "") == epilogue
