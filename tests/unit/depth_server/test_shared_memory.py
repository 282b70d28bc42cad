import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.preprocess import Size
from depth_server.shared_memory import ALIGNMENT, SharedPixels, Slot, SlotAllocator, slot_bytes

CAPACITY = 16 * ALIGNMENT


@given(st.lists(st.one_of(st.integers(1, 6 * ALIGNMENT), st.integers(-8, -1)), max_size=60))
def test_slots_never_overlap_and_nothing_is_lost(steps: list[int]) -> None:
    """A positive step allocates so many bytes; a negative one frees one of the slots in use."""
    allocator = SlotAllocator(CAPACITY)
    used: list[Slot] = []
    for step in steps:
        if step > 0:
            slot = allocator.allocate(step)
            if slot is not None:
                assert slot.length >= step
                used.append(slot)
        elif used:
            allocator.free(used.pop(step % len(used)))
        ordered = sorted(used, key=lambda slot: slot.offset)
        assert all(slot.offset % ALIGNMENT == 0 for slot in ordered)
        assert all(a.offset + a.length <= b.offset for a, b in itertools.pairwise(ordered))
        assert not ordered or ordered[-1].offset + ordered[-1].length <= CAPACITY
        assert allocator.free_bytes == CAPACITY - sum(slot.length for slot in used)
    for slot in used:
        allocator.free(slot)
    assert allocator.allocate(CAPACITY) == Slot(0, CAPACITY)


def test_a_slot_cannot_be_freed_twice() -> None:
    allocator = SlotAllocator(CAPACITY)
    slot = allocator.allocate(1)
    assert slot
    allocator.free(slot)
    with pytest.raises(ValueError, match="not in use"):
        allocator.free(slot)
    with pytest.raises(ValueError, match="beyond"):
        SlotAllocator(0).free(Slot(0, ALIGNMENT))


def test_depth_takes_the_place_of_pixels_and_both_ends_see_it() -> None:
    size = Size(14, 28)
    here = SharedPixels.create(CAPACITY)
    there = SharedPixels(here.descriptor, CAPACITY)
    here.pixel_values(ALIGNMENT, size)[...] = 3.0
    assert there.pixel_values(ALIGNMENT, size).sum() == 3.0 * 3 * size.pixels
    there.depth(ALIGNMENT, size)[...] = np.arange(size.pixels, dtype=np.float32).reshape(14, 28)
    assert here.depth(ALIGNMENT, size)[13, 27] == size.pixels - 1
    here.close()


@pytest.mark.parametrize(
    ("offset", "size"), [(-4096, Size(14, 14)), (CAPACITY, Size(14, 14)), (0, Size(1022, 1022)), (0, Size(0, 14))]
)
def test_an_offset_outside_the_memory_is_refused(offset: int, size: Size) -> None:
    pixels = SharedPixels.create(CAPACITY)
    with pytest.raises((ValueError, TypeError)):
        pixels.pixel_values(offset, size)
    pixels.close()


def test_an_image_needs_three_floats_per_pixel() -> None:
    assert slot_bytes(Size(518, 518)) == 518 * 518 * 12
