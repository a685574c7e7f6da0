"""A function of many tasks, computed by several processes, with the results in the tasks' order."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from ...errors import CaanError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Results that may wait for an earlier one, per process: keeps all busy, and memory small.
_AHEAD = 2


def in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Generator[Result, None, None]:
    """function(task) of each task, in order. `function` must be importable by a new process.

    One process computes them here. The others end with this process, however it ends. Raises what the function
    raises, if a CaanError; CaanError if a process ends early, as when memory runs out.
    """
    if processes == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads' locks, not the threads
    connections: list[Connection] = []
    children = []
    try:
        for _ in range(min(processes, len(tasks))):
            here, there = context.Pipe()
            child = context.Process(target=_serve, args=(function, there), daemon=True)
            child.start()
            there.close()
            connections.append(here)
            children.append(child)
        yield from _collected(tasks, connections)
    finally:
        for connection in connections:
            connection.close()
        for child in children:
            child.terminate()
            child.join()


def _collected(tasks: Sequence[Any], connections: list[Connection]) -> Generator[Any, None, None]:
    """Hands out the tasks and yields their results in order."""
    idle, ready = list(connections), {}
    busy: dict[Connection, int] = {}
    begun = 0
    for number in range(len(tasks)):
        while number not in ready:
            while idle and begun < min(len(tasks), number + _AHEAD * len(connections)):
                connection = idle.pop()
                connection.send(tasks[begun])
                busy[connection] = begun
                begun += 1
            for answered in cast(list[Connection], wait(list(busy))):
                ready[busy.pop(answered)] = _received(answered)
                idle.append(answered)
        yield ready.pop(number)


def _received(connection: Connection) -> Any:
    try:
        result = connection.recv()
    except (EOFError, OSError) as error:
        raise CaanError(
            "a drawing process was ended, perhaps because memory ran out; rerun the same command to resume, with fewer"
            " --processes"
        ) from error
    if isinstance(result, Exception):
        raise result
    return result


def _serve(function: Callable[[Task], Result], connection: Connection) -> None:
    """The other process: computes until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    with suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            try:
                answer: Result | Exception = function(task)
            except CaanError as error:
                answer = error
            except Exception:
                answer = RuntimeError(traceback.format_exc())
            connection.send(answer)
