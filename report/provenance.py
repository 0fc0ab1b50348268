"""What a result was made with: machine, versions, state of the source."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

OUTPUTS = ("results/README.md", "results/figures", "results/records")  # never make a tree dirty


def hardware() -> dict:
    """CPU model, cores this process may use, memory; GPUs come from torch_facts()."""
    return {"cpu": cpu_model(), "cores": usable_cores(), "ram_gb": memory_gb()}


def cpu_model() -> str:
    """The name the processor gives itself."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count()


def memory_gb() -> float | None:
    """Main memory in GiB, one decimal; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def torch_facts() -> tuple[str | None, int | None, list[str]]:
    """Version, threads and CUDA devices as torch sees them; (None, None, []) without torch."""
    try:
        import torch  # takes seconds: in a process of its own, see Asked
    except ImportError:
        return None, None, []
    gpus = []
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return torch.__version__, torch.get_num_threads(), gpus


class Asked:
    """torch_facts() in a process of its own, which imports torch while the step runs and does not
    keep it in memory for hours."""

    def __init__(self):
        # -P: not with this folder before all others on the path
        self.process = subprocess.Popen([sys.executable, "-P", __file__], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                        start_new_session=True)

    def answer(self) -> tuple[str | None, int | None, list[str]]:
        """Waits for it; (None, None, []) if it fails."""
        said, _ = self.process.communicate()
        return tuple(json.loads(said)) if self.process.returncode == 0 else (None, None, [])

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *error) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts(asked: Asked) -> dict:
    """Everything about machine and versions that goes into a step's record."""
    torch_version, threads, gpus = asked.answer()
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch_version,
            "numpy": version("numpy"),
        },
        "hardware": {**hardware(), "gpus": gpus},
        "threads": threads,
    }


def describe(machine: dict) -> str:
    """One phrase for a hardware dict, GPUs first."""
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gb']} GiB"
    gpus = machine.get("gpus") or []
    names = [f"{gpus.count(name)} x {name}" for name in sorted(set(gpus))]
    return "; ".join([*names, cpu])


def versions_of(step: dict) -> str:
    """One phrase for the versions in a step's record."""
    return ", ".join(f"{name} {value}" for name, value in step["versions"].items())


def commit_of(step: dict) -> str:
    """Seven digits of a step's commit, and whether the source had been changed since."""
    return (step["commit"] or "none")[:7] + (" + changes" if step["dirty"] else "")


def slug(machine: dict) -> str:
    """The part of a file name that says where a result was made."""
    gpus = machine.get("gpus") or []
    name = f"{len(gpus)}x-{gpus[0]}" if gpus else f"{machine['cpu']} {machine['cores']}c"
    name = re.sub(r"\((r|tm)\)", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the source tree; (None, None) outside git or before a first commit.

    Untracked files and what the report itself writes do not count as changes. The tree may be
    another user's, whom git would not trust: its code is running already, but no hook of his need.
    """
    def git(*words):
        done = subprocess.run(
            ["git", "--no-optional-locks", "-c", "safe.directory=*", "-c", "core.fsmonitor=false",
             "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "--verify", "-q", "HEAD")
    except FileNotFoundError:  # no git on this machine
        commit = None
    if commit is None:
        return None, None
    without = [f":(exclude){path}" for path in OUTPUTS]
    return commit, bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *without))


if __name__ == "__main__":
    print(json.dumps(torch_facts()))
