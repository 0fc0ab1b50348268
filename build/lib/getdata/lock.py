"""One getdata at a time works in a data folder."""

import contextlib
import os
import shutil


@contextlib.contextmanager
def data_folder_locked(job):
    """Hold the data folder's lock, so that only what a killed run left is cleared away."""
    job.data.mkdir(parents=True, exist_ok=True)
    lock = take_lock(job.data)
    try:
        if lock.is_locked:  # else another run may be at work
            for left in job.data.glob(".new-*"):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)  # it may be another user's
        yield
    finally:
        remove_used_archives(job)
        with contextlib.suppress(OSError):
            lock.release()


def take_lock(data):
    """Return the lock, taken; on a file system without locks say so and go on without."""
    from filelock import FileLock  # may be missing: not for --list

    from harness.lock import take

    lock = FileLock(data / ".lock", mode=0o666)  # whoever can write in the folder takes it in turn
    if not os.access(data, os.W_OK):
        return lock  # nothing can change there
    if not take(lock, advice := "start no second getdata"):
        print("waiting for another getdata to finish", flush=True)
        take(lock, advice, timeout=-1)
    return lock


def remove_used_archives(job):
    """Remove archives that are unpacked by now, or move them to where they are looked for if the
    catalogue says to keep them; half downloads stay, to be continued."""
    for file in job.downloads.glob("*"):
        if file.name not in job.archives:
            continue
        with contextlib.suppress(OSError):
            if job.archives[file.name].get("keep") and not (job.data / file.name).exists():
                os.replace(file, job.data / file.name)
            else:
                file.unlink()
    with contextlib.suppress(OSError):
        job.downloads.rmdir()  # only if nothing is left to continue
