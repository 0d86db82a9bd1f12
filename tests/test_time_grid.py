import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.events import TimeGrid

# Frame rates as decimals and as fractions with no end; steps from one frame to twenty, whole numbers of frames or not.
frame_rates = st.one_of(st.sampled_from([12.5, 25.0, 50.0, 100 / 3, 43.06640625, 7.0]), st.floats(1, 200))

short_clips = st.floats(0.1, 60)


@st.composite
def grids(draw, max_time=short_clips):
    frame_rate = draw(frame_rates)
    frames_per_tick = draw(st.one_of(st.integers(1, 20), st.floats(1.001, 20)))
    return TimeGrid(frame_rate, frames_per_tick / frame_rate, draw(max_time))


def exact(value):
    return Fraction(repr(value))


def test_default_grid_has_one_tick_for_each_frame():
    grid = TimeGrid()
    tokens = grid.tick_tokens()
    assert (grid.num_ticks, grid.max_frames, grid.decimals) == (750, 750, 2)
    assert tokens[:2] == ["<0.00>", "<0.04>"]
    assert tokens[-1] == "<29.96>"
    assert [grid.tick_frame(i) for i in range(750)] == list(range(750))
    assert grid.interleave(3) == [0, -1, 1, -1, 2, -1]
    assert TimeGrid(12.5, 0.08, 30).interleave(2) == [0, -1, 1, -1]


def test_sparse_ticks_stand_only_before_their_frames():
    grid = TimeGrid(frame_rate=25, time_step=0.1, max_time=1)
    assert [grid.tick_frame(i) for i in range(5)] == [0, 2, 5, 8, 10]
    assert grid.interleave(6) == [0, -1, -1, 1, -1, -1, -1, 2, -1]
    assert grid.interleave(0) == []


def test_a_stride_leaves_ticks_out_of_the_prompt_and_no_frame():
    grid = TimeGrid(12.5, 0.08, 30)
    assert grid.interleave(5, stride=2) == [0, -1, -1, 2, -1, -1, 4, -1]
    assert grid.interleave(3, stride=100) == [0, -1, -1, -1]
    # 375 frames: ticks 0, 25, ..., 350.
    order = grid.interleave(375, stride=25)
    assert [item for item in order if item >= 0] == list(range(0, 375, 25)) and order.count(-1) == 375
    for stride in (0, 1.0, True):
        with pytest.raises(ValueError, match=f"stride is {stride}; give a number of ticks"):
            grid.interleave(5, stride)


@given(grids(), st.floats(0, 1))
def test_ticks_never_drift(grid, fraction):
    num_frames = int(fraction * grid.max_frames)
    frames_per_tick = exact(grid.time_step) * exact(grid.frame_rate)
    order = grid.interleave(num_frames)
    assert order.count(-1) == num_frames
    ticks = [item for item in order if item >= 0]
    assert ticks == list(range(len(ticks)))
    position = 0
    for item in order:
        if item < 0:
            position += 1
        else:
            # Exact arithmetic: the last tick of a clip is no further off than the first may be.
            assert abs(position - item * frames_per_tick) <= Fraction(1, 2)
            assert position == grid.tick_frame(item)
    if len(ticks) < grid.num_ticks:
        assert grid.tick_frame(len(ticks)) >= num_frames


@given(grids(max_time=st.floats(500, 2000)))
@settings(max_examples=10)
def test_ticks_of_long_clips_do_not_drift_either(grid):
    last = grid.num_ticks - 1
    assert abs(grid.tick_frame(last) - last * exact(grid.time_step) * exact(grid.frame_rate)) <= Fraction(1, 2)
    assert last * exact(grid.time_step) < exact(grid.max_time) <= (last + 1) * exact(grid.time_step)


@given(grids())
def test_spellings_are_exact_and_distinct(grid):
    tokens = grid.tick_tokens()
    assert len(set(tokens)) == len(tokens) == grid.num_ticks
    assert grid.decimals >= 2
    for tick in {0, 1 % grid.num_ticks, grid.num_ticks // 2, grid.num_ticks - 1}:
        assert Fraction(tokens[tick][1:-1]) == tick * exact(grid.time_step)
        assert grid.tick_text(tick) == tokens[tick]
        assert float(tokens[tick][1:-1]) == grid.tick_seconds(tick)
        assert grid.seconds_to_tick(grid.tick_seconds(tick)) == tick
        assert len(tokens[tick].partition(".")[2]) - 1 == grid.decimals


@given(grids(), st.floats(-10, 100))
def test_snap_is_nearest_within_the_clip_and_idempotent(grid, seconds):
    snapped = grid.snap(seconds)
    step, limit = exact(grid.time_step), exact(grid.max_time)
    assert 0 <= snapped <= grid.max_time
    assert grid.snap(snapped) == snapped == float(grid.seconds_to_text(seconds))
    inside = min(max(exact(seconds), 0), math.floor(limit / step) * step)
    multiple = round(exact(snapped) / step)
    assert abs(multiple * step - inside) <= step / 2
    assert snapped == float(multiple * step)


def test_times_outside_go_to_the_ends():
    grid = TimeGrid()
    assert (grid.seconds_to_tick(-3), grid.seconds_to_tick(30), grid.seconds_to_tick(99)) == (0, 749, 749)
    assert (grid.snap(-3), grid.snap(29.99), grid.snap(99)) == (0.0, 30.0, 30.0)
    assert grid.snap(0.3) == 0.32
    assert grid.snap(0.1 + 0.2) == 0.32
    assert TimeGrid(time_step=0.07).snap(30) == 29.96


def test_decimals_write_every_multiple():
    assert TimeGrid(time_step=0.125).decimals == 3
    assert TimeGrid(time_step=0.125).tick_text(3) == "<0.375>"
    assert TimeGrid(time_step=1).tick_text(7) == "<7.00>"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"time_step": 0.03}, "time_step is 0.03 s, shorter than one frame of 0.04 s"),
        ({"time_step": 0}, "time_step is 0; give a finite number greater than 0"),
        ({"frame_rate": -25}, "frame_rate is -25"),
        ({"max_time": math.inf}, "max_time is inf"),
        ({"max_time": math.nan}, "max_time is nan"),
        ({"max_time": "30"}, "max_time is '30'"),
        ({"frame_rate": True}, "frame_rate is True"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeGrid(**arguments)


def test_wrong_counts_and_times_are_named():
    grid = TimeGrid()
    assert len(grid.interleave(750)) == 1500
    with pytest.raises(ValueError, match="num_frames is 751, but max_time of 30 s holds 750 frames"):
        grid.interleave(751)
    with pytest.raises(ValueError, match="num_frames is -1"):
        grid.interleave(-1)
    with pytest.raises(ValueError, match="num_frames is 2.0"):
        grid.interleave(2.0)
    for tick in (-1, 750, 1.0):
        with pytest.raises(ValueError, match=f"tick is {tick}; give an integer from 0 to 749"):
            grid.tick_text(tick)
    with pytest.raises(ValueError, match="seconds is nan"):
        grid.seconds_to_tick(math.nan)
    with pytest.raises(ValueError, match="seconds is '1'"):
        grid.snap("1")


def test_grids_with_the_same_settings_are_equal():
    assert TimeGrid() == TimeGrid(25, 0.04, 30)
    assert len({TimeGrid(), TimeGrid(25, 0.04, 30)}) == 1
