"""Keeper: one run's device, lock, files, resume, curves, finite check, --max-steps and signals.

A run is any object with

    progress                   a dataclass of plain values derived from Progress
    state() -> dict            what is the same in all processes: weights, optimiser, schedule
    own() -> dict              what each process has for itself: hidden states, generators
    restore(state, own)        takes both back; `progress` is back already
    inputs: dict[str, str]     (optional) digest of each input file by name: a resumed run must have
                               the same

Everything that the next update depends on is in there or in the random states, which the Keeper
adds. So a resumed run gives, on the CPU, the same bits as one that never stopped.
"""

import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from harness import curves, files, flags, machine
from harness.endings import SIGNALS, BadInput, Interrupted, bad_input, orderly_exit
from harness.lock import Lock
from harness.notices import nobody_reads, speak
from harness.places import Places
from harness.updates import Updates, Waiting

STATE_FORMAT = "harness training state 1"
READ_EVERY = 10  # updates between two readings of a GPU, without --log-interval


@dataclass
class Progress:
    """How far a run is; each script adds its own fields."""

    epoch: int = 1
    step: int = 0      # updates so far, over all epochs


class Keeper(Updates):
    """Use as a context around everything that a script does after parsing its flags.

    Args:
        script: its path in the repository. A training state belongs to one script.
        default_save: the value of --save in place of None, asked of the first process.
        writes: False for a call that only evaluates.
        tunes: the run begins from the best model in --save, see Places.set_aside.
        text_log: a file for what the run says: given the arguments; or a name, for a file in the
            folder of the curves, which no other run shares.
        upgrade: turns a training state of an earlier release into one of this one (`save` below
            shows its entries); returns anything else as it is.
        takes_weights: --resume may name a model file, which is then in `weights`.
        safe: further classes that the files may hold, see files.read.
        free: flags in which a resumed run may differ, besides flags.FREE_ON_RESUME.
        ddp: arguments of DistributedDataParallel.
        places: arguments of Places.
    """

    def __init__(self, script: str, args: Namespace, *,
                 default_save: Callable[[], str] | None = None, writes: bool = True,
                 tunes: bool = False, text_log: Callable[[Namespace], Path] | str | None = None,
                 upgrade: Callable[[dict], dict] = lambda content: content,
                 takes_weights: bool = False, safe: tuple[type, ...] = (),
                 free: Iterable[str] = (), ddp: dict | None = None, **places):
        self.script, self.args, self.places = script, args, Places(args, **places)
        self.default_save, self.writes, self.tunes = default_save, writes, tunes
        self.text_log_of, self.upgrade, self.takes_weights = text_log, upgrade, takes_weights
        self.safe, self.free, self.ddp = safe, free, ddp or {}
        self.found: dict | None = None           # the training state that --resume named
        self.weights: dict | None = None         # or the model file
        self.best_suffix: str | None = None      # of the best model so far; None: there is none
        self.run: Any = None
        self.on_ctrl_c: Callable | None = None
        self.curves: curves.Curves | None = None
        self.text_log: curves.TextLog | None = None
        self._early: list[str] = []              # said before the text log was open
        self._signum = 0
        self._unheard: OSError | None = None     # why a line could not be printed
        self._closing = False
        self._handlers: dict = {}

    # -------------------------------------------------------------------- beginning and end
    def __enter__(self) -> "Keeper":
        self._stack = ExitStack()
        self._stack.enter_context(orderly_exit(self.script))
        try:
            self._begin()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        return self

    def _begin(self) -> None:
        args = self.args
        self._stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        slow = machine.set_aside_slow_flags(args)
        self.free = {*self.free, *slow}
        self._read_resume()
        self.fabric = machine.make_fabric(
            args, self.writes and not getattr(args, "eval", False), **self.ddp)
        for line in slow.values():
            self.say(line)
        self.waiting = Waiting(self.fabric)
        if said := machine.set_tf32(self.fabric, args):
            self.say(said)
        if self.places.given is None and self.default_save:
            setattr(args, self.places.where, self.fabric.broadcast(self.default_save()))
        self.writes = self.writes and bool(self.places.given)
        if self.writes:
            self.places.check(self.tunes, self.found is not None)
            lock = Lock(self.places.lock)
            lock.acquire(f"{self.places.flag} {self.places.given}", self.fabric)
            self._stack.callback(lock.release)
        self._stack.callback(self._close)

    def __exit__(self, kind, error, trace) -> bool | None:
        try:
            if isinstance(error, Interrupted) and self.run is not None and self.writes:
                self._leave_early(error)
            if self._unheard and (error is None or isinstance(error, Interrupted)):
                raise self._unheard
        except BaseException:
            return self._stack.__exit__(*sys.exc_info())
        return self._stack.__exit__(kind, error, trace)

    def _leave_early(self, stop: Interrupted) -> None:
        """The state as it stands, and how to go on. It is written already after --max-steps, where
        evaluation has since disturbed the hidden states, and in the closing test, which has put the
        best weights in the place of the last."""
        if not self.out_of_steps() and not self._closing:
            self.save()
        self.say(f"{'-' * 89}\nExiting from training early\n"
                 f"To go on: the same command with --resume ({self.places.state})")
        if stop.signum == signal.SIGINT and self.on_ctrl_c and self.best_suffix is not None:
            self.on_ctrl_c(self.run)

    def _close(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        if self.curves:
            self.curves.close()

    # -------------------------------------------------------------------------------- resume
    def _read_resume(self) -> None:
        """Reads what --resume names, before anything is built: a mistake shows at once."""
        given, places = getattr(self.args, "resume", None), self.places
        if given is None:
            return
        path = Path(given) if given else places.find_state()
        with bad_input("--resume: "):
            content = self.upgrade(files.read_or_previous(path, self.safe))
        if content.get("format") != STATE_FORMAT:
            if not self.takes_weights:
                raise BadInput(f"--resume: {path} is no training state of {self.script}")
            self.weights = content
            return
        if content["script"] != self.script:
            raise BadInput(f"--resume: {path} is a state of {content['script']}, not of "
                           f"{self.script}")
        if places.given is None:
            setattr(self.args, places.where, content["save"])
        elif not given and path != places.state and Path(content["save"]).name != places.best.name:
            raise BadInput(f"--resume: {path} is the state of {content['save']}, not of "
                           f"{places.given}")  # release 0.1 gave some runs the same name
        flags.refuse_other_settings(path, content["args"], self.args, self.free)
        self.found, self._found_in = content, path

    def resume(self, run, on_ctrl_c: Callable | None = None) -> None:
        """Puts `run` where --resume says, or sets an earlier run's files aside; opens the curves;
        from now on signals are noted and acted upon between two updates.

        on_ctrl_c: called with the run after Ctrl-C, when the state is saved and there is a best
        model. Raises BadInput.
        """
        self.run, self.on_ctrl_c = run, on_ctrl_c
        state, first = self.found, self.fabric.is_global_zero
        if state:
            self._restore(run, state)
        with machine.together(self.fabric):
            if self.writes and first:
                for old, new in [] if state else self.places.set_aside(self.tunes):
                    self.say(f"{old} is of an earlier run: kept as {new}")
                self._open_curves(state)
        if state:
            self.say(f"Resuming at epoch {run.progress.epoch}, update {run.progress.step}")
            random = self._part(state)["random"]
            if (there := random.get("cuda") is not None) != (self.fabric.device.type == "cuda"):
                self.say(f"Not exact: the state is of a run on {'a GPU' if there else 'the CPU'}; "
                         "here random numbers and rounding are others")
            machine.set_random_states(random, self.fabric)
        for signum in SIGNALS if self.writes else ():
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays nohup
                self._handlers[signum] = signal.signal(signum, self._note)

    def _part(self, state: dict) -> dict:
        return state["processes"][self.fabric.global_rank]

    def _restore(self, run, state: dict) -> None:
        self._refuse_other_run(run, state)
        known = {field.name for field in fields(run.progress)}
        run.progress = type(run.progress)(
            **{name: value for name, value in state["progress"].items() if name in known})
        run.restore(state, machine.to_device(self._part(state)["own"], self.fabric.device))
        self.best_suffix = state["best"]

    def _refuse_other_run(self, run, state: dict) -> None:
        """Raises BadInput if the state is of other inputs or processes, or its best model is gone,
        which cannot be made again."""
        path, then = self._found_in, state.get("inputs") or None  # none known in release 0.1
        for name, digest in getattr(run, "inputs", {}).items():
            if then is not None and then.get(name) != digest:
                raise BadInput(f"--resume: {name} is not what the run in {path} was trained on: it "
                               "has changed, or --data is another")
        if (count := len(state["processes"])) != self.fabric.world_size:
            raise BadInput(f"--resume: {path} is of {count} processes, not "
                           f"{self.fabric.world_size}: give --devices {count}")
        if state["best"] is not None and not (best := self.best(state["best"])).is_file():
            raise BadInput(f"--resume: the best model so far, {best}, is not there")

    def _open_curves(self, state: dict | None) -> None:
        args, own = self.args, state is not None and self.places.is_own(state)
        settings = {"script": self.script, **flags.plain(args), **machine.rounding(self.fabric)}
        place = args.log_dir, self.places.name, Path(self.places.given)
        try:
            folder = (curves.continued(state, own, *place) if state else curves.claim(*place))
            self.curves = curves.Curves(folder, settings, self.run.progress.step,
                                        state["metrics_size"] if state else 0)
            if self.text_log_of:
                path = (folder / self.text_log_of if isinstance(self.text_log_of, str)
                        else self.text_log_of(args))
                along = state and self.places.holds(self._found_in)
                self._open_text_log(path, state if own or along else None)
        except OSError as error:
            raise BadInput(f"--log-dir {args.log_dir}: {error.strerror}: "
                           f"{error.filename}") from error

    def _open_text_log(self, path: Path, state: dict | None) -> None:
        """state: that of the run which wrote the log so far; without it, an earlier log is kept."""
        if not state and (aside := files.set_aside(path)):
            self.say(f"{path} is of an earlier run: kept as {aside}")
        self.text_log = curves.TextLog(path, state.get("log_size") if state else None)
        for text in self._early:
            self.text_log.write(text)

    # ------------------------------------------------------------------------------- saving
    def save(self, copies: Iterable[Path] = ()) -> None:
        """Writes the training state, with a part from every process, first into files that get the
        same content. All processes call it."""
        self.settle()
        if not self.writes:
            return
        run, fabric = self.run, self.fabric
        parts = machine.gather(fabric, {"random": machine.random_states(fabric), "own": run.own()})
        if fabric.is_global_zero:
            content = {
                **run.state(), "format": STATE_FORMAT, "script": self.script,
                "args": flags.plain(self.args), "save": str(Path(self.places.given).absolute()),
                "best": self.best_suffix, "progress": asdict(run.progress),
                "inputs": getattr(run, "inputs", {}), "processes": parts,
                "metrics": str(self.curves.folder), "metrics_size": self.curves.size,
                "log_size": self.text_log.size if self.text_log else None}
            for path in copies:
                files.write(path, content)
            files.write(self.places.state, content, keep_previous=True)
        fabric.barrier()

    def best(self, suffix: str | None = None) -> Path:
        """The file of the best model so far, or of that with `suffix`."""
        suffix = self.best_suffix if suffix is None else suffix
        return Path(f"{self.places.best}{suffix or ''}")

    def save_best(self, content: dict, suffix: str = "") -> None:
        """Writes the best model so far, to --save with `suffix` after it. All processes call it."""
        self.best_suffix = suffix
        self.save_model(content, suffix)

    def save_model(self, content: dict, suffix: str) -> None:
        """As save_best, of a model that is not to be remembered as the best."""
        self.settle()
        if self.writes and self.fabric.is_global_zero:
            files.write(self.best(suffix), {**content, "args": flags.plain(self.args)})
        self.fabric.barrier()

    def read_best(self) -> dict:
        """The best model so far, for the closing test. Raises BadInput."""
        self._closing = True
        self.fabric.barrier()
        with bad_input(f"{self.places.flag}: "):
            return files.read(self.best())

    # ------------------------------------------------------------------------- between updates
    def out_of_steps(self) -> bool:
        """Has --max-steps been reached?"""
        most = getattr(self.args, "max_steps", 0)
        return bool(most) and self.run.progress.step >= most

    def after_update(self) -> None:
        """Writes the state every --save-interval updates and at the last one of --max-steps.
        Raises Interrupted if a signal came, FloatingPointError like settle."""
        if self.run.progress.step % self.args.save_interval == 0 or self.out_of_steps():
            self.save()
        due = self.waiting.updates > getattr(self.args, "log_interval", READ_EVERY)
        if due:
            self.settle()
        # Several processes on GPUs wait for one another to ask: not after every update.
        if due or not self.waiting.deferred or self.fabric.world_size == 1:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raises Interrupted if this or another process was signalled: all stop at one place."""
        signum = machine.greatest(self.fabric, self._signum)
        if signum:
            self._signum = 0
            raise Interrupted(signum)

    def _note(self, signum: int, frame) -> None:
        self._signum = signum

    # ------------------------------------------------------------------------------- telling
    def say(self, text: str) -> None:
        """One process speaks for all, to the terminal and to the text log. If nobody reads the
        terminal any more, the run stops as on SIGHUP; if the disk behind it is full, likewise, and
        with that error."""
        if not self.fabric.is_global_zero:
            return
        if (error := speak(text)) is not None:
            self._signum = getattr(signal, "SIGHUP", signal.SIGTERM)
            self._unheard = None if nobody_reads(error) else error
        if self.text_log:
            self.text_log.write(text)
        else:
            self._early.append(text)

    def log(self, epoch: int | None = None, **values: float) -> None:
        """Points of the curves, at the present update; all in nats, percent or seconds as the
        script's names say."""
        if self.curves:
            p = self.run.progress
            self.curves.log(p.step, p.epoch if epoch is None else epoch, values)
