"""Memory for pixels that the API process and an engine process share.

The memory is an anonymous file (`memfd_create(2)`) that the engine process inherits: it needs no room in `/dev/shm`,
which has 64 MB in a container by default, has no name that others could open, and is gone when both processes are,
however they end. Each image gets a slot: its pixels go in, its depth comes out in the same place.
"""

import bisect
import mmap
import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from depth_server.preprocess import Size

ALIGNMENT: Final = 4096
"""Slots begin at pages: two processes never write to the same one."""

BYTES_PER_INPUT_PIXEL: Final = 3 * 4
"""Three channels in fp32; depth needs a third of it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of the memory.

    Attributes:
        offset: First byte.
        length: Bytes.
    """

    offset: int
    length: int


class SlotAllocator:
    """Hands out parts of a range of bytes: first fit, neighbours merged when freed; pure.

    Args:
        capacity: Bytes in all.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = [Slot(0, capacity)]

    @property
    def free_bytes(self) -> int:
        """Bytes that are not handed out."""
        return sum(slot.length for slot in self._free)

    def allocate(self, length: int) -> Slot | None:
        """Take a slot of at least `length` bytes; None if there is none that large."""
        rounded = max(-(-length // ALIGNMENT), 1) * ALIGNMENT
        for index, hole in enumerate(self._free):
            if hole.length == rounded:
                return self._free.pop(index)
            if hole.length > rounded:
                self._free[index] = Slot(hole.offset + rounded, hole.length - rounded)
                return Slot(hole.offset, rounded)
        return None

    def free(self, slot: Slot) -> None:
        """Give a slot back.

        Raises:
            ValueError: It is free already, or was never handed out.
        """
        index = bisect.bisect(self._free, slot.offset, key=lambda hole: hole.offset)
        end = slot.offset + slot.length
        before = self._free[index - 1] if index else None
        after = self._free[index] if index < len(self._free) else None
        if (before and before.offset + before.length > slot.offset) or (after and end > after.offset):
            message = f"the slot at {slot.offset} is not in use"
            raise ValueError(message)
        if end > self.capacity:
            message = f"the slot at {slot.offset} ends beyond the {self.capacity} bytes"
            raise ValueError(message)
        merged = slot
        if after and end == after.offset:
            merged = Slot(merged.offset, merged.length + after.length)
            self._free.pop(index)
        if before and before.offset + before.length == slot.offset:
            merged = Slot(before.offset, before.length + merged.length)
            self._free.pop(index - 1)
            index -= 1
        self._free.insert(index, merged)


class SharedPixels:
    """The memory, seen from one of the processes.

    Args:
        descriptor: Of the anonymous file; stays open and is closed by `close`.
        capacity: Its size in bytes.
    """

    def __init__(self, descriptor: int, capacity: int) -> None:
        self.descriptor = descriptor
        self.capacity = capacity
        self._map = mmap.mmap(descriptor, capacity)

    @classmethod
    def create(cls, capacity: int) -> "SharedPixels":
        """Make the memory; pages cost nothing until they are written."""
        descriptor = os.memfd_create("depth-pixels", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, capacity)
        return cls(descriptor, capacity)

    def pixel_values(self, offset: int, size: Size) -> NDArray[np.float32]:
        """View an image's pixels, (3, H, W).

        Raises:
            ValueError: The image would reach beyond the memory.
        """
        return self._view(offset, (3, size.height, size.width))

    def depth(self, offset: int, size: Size) -> NDArray[np.float32]:
        """View an image's depth, (H, W).

        Raises:
            ValueError: The map would reach beyond the memory.
        """
        return self._view(offset, (size.height, size.width))

    def close(self) -> None:
        """Give up the descriptor; the mapping goes with the last view of it."""
        os.close(self.descriptor)

    def _view(self, offset: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        # From offsets of the wire: numpy refuses what does not fit.
        if offset < 0 or min(shape) < 1:
            message = f"no image at offset {offset} with the shape {shape}"
            raise ValueError(message)
        return np.ndarray(shape, dtype=np.float32, buffer=self._map, offset=offset)


def slot_bytes(size: Size) -> int:
    """Tell the bytes that an image of this size needs."""
    return size.pixels * BYTES_PER_INPUT_PIXEL
