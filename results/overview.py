"""The table of the top README: every row, its published number, ours, and a shrunk run of it."""

from pathlib import Path

from results import published

HERE = Path(__file__).parent

TASKS = {
    "awd-ptb": "words, PTB: LSTM, fine-tuned, cache",
    "awd-ptb-qrnn": "the same, QRNN",
    "awd-wt2": "words, WikiText-2: LSTM, fine-tuned, cache",
    "awd-wt2-qrnn": "the same, QRNN",
    "awd-ptbc": "characters, PTB: LSTM",
    "awd-enwik8": "bytes, enwik8: LSTM",
    "awd-wt103": "words, WikiText-103: QRNN",
    "awd-scratch-ptb": "words, PTB: the readable LSTM",
    "trellis-ptb": "words, PTB",
    "trellis-ptb-mos": "words, PTB, mixture of softmaxes",
    "trellis-ptbc": "characters, PTB",
    "trellis-wt103": "words, WikiText-103",
    "trellis-smnist": "sequential MNIST",
    "trellis-pmnist": "permuted MNIST",
    "trellis-scifar": "sequential CIFAR-10",
    "sparse-ptb": "words, PTB: sparse LSTM, fine-tuned",
    "sparse-ptb-dense": "the same, dense",
    "sparse-recite-dense": "learning to recite PTB: dense, 24.2 M",
    "sparse-recite-reduced": "dense, 7.07 M",
    "sparse-recite-sparse1": "sparse LSTM, 7.07 M",
    "sparse-recite-sparse2": "sparse LSTM and embedding, 7.07 M",
    "sparse-pos-dense": "part-of-speech tags: dense embedding",
    "sparse-pos-sparse": "sparse embedding, same parameters",
    "sparse-pos-down": "the same, vocabulary reversed",
    "tnn-alm": "words, WikiText-103 (BPE): causal",
    "tnn-extrapolation": "longer texts than trained on",
    "tnn-blm": "masked words, WikiText-103",
    "tnn-glue": "GLUE, fine-tuned",
    "tnn-im-tiny": "ImageNet, tiny",
    "tnn-im-small": "ImageNet, small",
    "tnn-lra-listops": "Long Range Arena: ListOps",
    "tnn-lra-imdb": "text (IMDB)",
    "tnn-lra-aan": "retrieval (AAN)",
    "tnn-lra-cifar": "image (CIFAR-10)",
    "tnn-lra-pathfinder": "Pathfinder",
    "tnn-lra-pathfinderx": "Path-X",
    "tnn-speed": "speed against length",
}
# Rows whose result is no single number: published as, and where ours is, below results/.
PLOTS = {"tnn-speed": ("Figure 1", "figures/tnn_speed.svg")}
UNITS = {"ppl": "", "bpc": " bpc", "acc": " %", "loss": " (loss)"}
HEAD = ("row", "what", "published", "ours", "shrunk run, here")
BEGIN, END = "<!-- results: written by `make report` -->", "<!-- end of results -->"


def number(step: dict, metric: str | None = None) -> str:
    """'valid / test' of a step with its unit; a dash for a step without numbers."""
    metric = metric or published.metric_of(step)
    if metric is None:
        return "-"
    values = {split: step["final"].get(f"{split}_{metric}") for split in ("valid", "test")}
    if set(values.values()) == {None} and step["curve"]:
        values = {"valid": step["curve"][-1].get(f"train_{metric}")}
    text = published.pair(values, metric).removesuffix(" / -").removeprefix("- / ")
    return "-" if text == "-" else text + UNITS[metric]


def shrunk_cell(row: str, records: list[dict]) -> str:
    """The last stage of the newest small run of a row that has a number, and what was shrunk."""
    for record in reversed(records):
        if record.get("smoke") or record["row"] == row:
            continue
        if published.like(record["row"], record["steps"][0]["like"]) != row:
            continue
        stages = [step for step in reversed(record["steps"]) if step["step"] in published.STEPS]
        for step in stages or record["steps"]:
            if number(step) != "-":
                note = f" ({step['shrunk']})" if step["shrunk"] else ""
                return number(step) + note
    return "-"


def line(row: str, lines: list[dict], records: list[dict]) -> str:
    """One line of the table."""
    if row in PLOTS and (HERE / PLOTS[row][1]).is_file():
        known, plot = PLOTS[row]
        ours = f"[plot](results/{plot}), one core"
        return f"| `{row}` | {TASKS[row]} | {known} | not run here | {ours} |"
    wanted = published.targets(lines, row)
    stage, metric = list(wanted)[-1] if wanted else (None, None)
    known = published.pair(wanted[stage, metric]) if wanted else "not found"
    known = known.removeprefix("- / ").removesuffix(" / -") + (UNITS[metric] if metric else "")
    full = [r for r in records if r["row"] == row and not r.get("smoke")]
    ours = number(full[-1]["steps"][-1], metric) if full else "not run here"
    cells = (f"`{row}`", TASKS[row], known, ours, shrunk_cell(row, records))
    return "| " + " | ".join(cells) + " |"


def table(lines: list[dict], records: list[dict]) -> str:
    """The Markdown table."""
    head = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    return "\n".join([*head, *(line(row, lines, records) for row in published.ROWS)])


def write(readme: Path, lines: list[dict], records: list[dict]) -> bool:
    """Puts the table between its marks in the README; False if it has none."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if BEGIN not in text or END not in text:
        return False
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(lines, records)}\n{END}{after}", encoding="utf-8")
    return True
