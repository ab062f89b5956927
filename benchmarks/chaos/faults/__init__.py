"""What goes wrong. Each fault is a generator: it does harm, yields how many seconds to let pass, and does more.

Closed in the middle, it repairs in a `finally` what must not stay broken.
"""

import time
from collections.abc import Callable, Generator

from ..world import World

Harm = Generator[float, None, None]
Fault = Callable[[World], Harm]


def restored(world: World) -> None:
    world.reconnect()
    world.record.restored.append(time.monotonic())
