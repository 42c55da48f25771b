"""Random changes of bytes, for the tests of readers."""

from __future__ import annotations

import random
from collections.abc import Sequence


def bytes_mutated(data: bytes, generator: random.Random, junk: Sequence[bytes], counts: Sequence[int] = (1, 1, 2, 3, 10)) -> bytes:
    """`data` with a few random changes, `counts` to draw their number from; `junk` are byte strings that a reader may stumble over."""
    found = bytearray(data)
    for _ in range(generator.choice(counts)):
        at = generator.randrange(len(found)) if found else 0
        match generator.randrange(6):
            case 0 if found:
                found[at] = generator.randrange(256)
            case 1:
                del found[at : at + generator.randint(1, 40)]
            case 2:
                found[at:at] = generator.choice(junk)
            case 3:
                found[at:at] = found[generator.randrange(len(found) or 1) :][: generator.randint(1, 60)]
            case 4:
                del found[at:]
            case _ if found:
                found[at] ^= 1 << generator.randrange(8)
    return bytes(found)
