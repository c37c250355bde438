"""ROS domains of this test process alone: two runs side by side on a machine do not hear each other's nodes."""

from __future__ import annotations

import itertools
import random
import socket

BLOCK = 10
FIRST_PORT = 21000
_holders: list[socket.socket] = []  # what says that a block is taken, until this process ends


def _block() -> range:
    """BLOCK domains of 1 to 100; any where as many test processes run as there are blocks."""
    for first in random.sample(range(1, 101, BLOCK), 100 // BLOCK):
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", FIRST_PORT + first))
        except OSError:
            holder.close()
            continue
        _holders.append(holder)
        return range(first, first + BLOCK)
    return range(1, 101)


_domains = itertools.cycle(_block())


def next_domain() -> int:
    """Another one for each bench: what an earlier one left to the garbage collector has the same name in the graph."""
    return next(_domains)
