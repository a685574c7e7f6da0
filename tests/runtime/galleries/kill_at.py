"""Run a caan command repeatedly, killing it at a different disk write each time: `python kill_at.py`.

Reads {"points": [n or null, …], "commands": [[argument, …], …]} from stdin. Each command runs in a process of its own,
which kills itself (SIGKILL) just before the n-th call that changes something on disk; null lets it run to its end.
Prints, as JSON, how many such calls each command made, null if it was killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from caan import cli
from caan.runtime import index  # noqa: F401  (loaded once, before the forks)

# Built-in functions that change files, called by caan directly or through pathlib and shutil.
WRITES = {"open", "write", "flush", "fsync", "truncate", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"}
SOURCES = [str(Path(cli.__file__).parent / part) for part in ("_files", "runtime/galleries", "runtime/index.py")]


def main() -> None:
    job = json.load(sys.stdin)
    counts = [run(command, point) for point, command in zip(job["points"], job["commands"], strict=True)]
    print("MADE", json.dumps(counts))


def run(command: list[str], point: int | None) -> int | None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        counter = Counter(point)
        sys.setprofile(counter)
        try:
            cli.main(command)
        except SystemExit as stop:
            sys.setprofile(None)
            os.write(writer, json.dumps([stop.code, counter.calls]).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        answer = file.read()
    if not answer:
        return None
    code, calls = json.loads(answer)
    assert code == 0, (command, code)
    return calls


class Counter:
    def __init__(self, point: int | None) -> None:
        self.point, self.calls = point, 0

    def __call__(self, frame, event, function) -> None:
        if event != "c_call" or function.__name__ not in WRITES or not is_ours(frame):
            return
        self.calls += 1
        if self.calls == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


def is_ours(frame) -> bool:
    for _ in range(6):  # skip frames of pathlib and shutil
        if frame is None:
            return False
        if any(frame.f_code.co_filename.startswith(source) for source in SOURCES):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
