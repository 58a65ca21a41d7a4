# What fastpath/build.py makes of include/abi/glance.h.
from typing import Any

ffi: Any

class _Lib:
    GLANCE_TIME: int
    GLANCE_HIT: int
    GLANCE_EVENT: int
    def glance_look(self, words: Any, word_count: int, queues: Any, queue_count: int) -> int: ...
    def glance_sleep(
        self,
        epoll_fd: int,
        timeout_ns: int,
        interval_ns: int,
        words: Any,
        word_count: int,
        queues: Any,
        queue_count: int,
    ) -> int: ...

lib: _Lib
