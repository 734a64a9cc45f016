"""Commands that write on a disk that is full."""

import os

from tests.helpers.commands import run

KB = 1024


def fill(folder, left):
    """Leave so many bytes of a disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(bytes(max(free - left, 0)))


def assert_told_and_nothing_lost(disk, files, words, *, size=64, left=4 * KB, expected_status=1):
    """Run a command whose disk is full.

    Args:
        files: what it would write; each has an earlier content.
        words: from the disk's folder to the command's.
        size: of the disk, in kilobytes; ``left`` bytes of it are free.
    """
    folder = disk(size)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"earlier")
    fill(folder, left)
    ended = run(*words(folder))
    assert ended.status == expected_status, f"expected {expected_status}, got {ended.status}: {ended.errors}"
    if expected_status:
        lines = [line for line in ended.errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in ended.errors, ended.errors[-1000:]
        assert "No space left on device" in lines[0], lines[0]
    changed = [name for name in files if (folder / name).read_bytes() != b"earlier"]
    assert not changed, f"{changed} are not as they were"
    unfinished = [path.name for path in folder.rglob("*.tmp")]
    assert not unfinished, f"{unfinished} were left"
    return "one line, nothing lost" if expected_status else "told in the log, scores kept, nothing lost"
