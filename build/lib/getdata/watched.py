"""Work on the network with a deadline for each step, whatever the other side does."""

import contextlib
import queue
import threading


class Watched:
    """An iterator that runs in a thread of its own, at most two steps ahead.

    The timeouts of sockets do not do: they begin anew with every byte, and a server may send one
    byte a second. A thread that is given up cannot be stopped; it ends after its step or with the
    process.
    """

    def __init__(self, steps):
        self._steps, self._taken = steps, queue.Queue(1)
        self._given_up = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        try:
            for step in self._steps:
                self._taken.put((step, None))
                if self._given_up.is_set():
                    return
            self._taken.put((None, None))
        except BaseException as error:
            self._taken.put((None, error))
        finally:
            self._steps.close()

    def next(self, seconds):
        """Return the next step, None after the last. Raises TimeoutError, or what the step did."""
        try:
            step, error = self._taken.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        if error:
            raise error
        return step

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._given_up.set()
        with contextlib.suppress(queue.Empty):  # the thread may be waiting for room
            self._taken.get_nowait()
