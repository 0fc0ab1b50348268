"""A step's curve (one dict per epoch) and closing numbers, from metrics.csv and the log.

Names are <split>_<metric>, with splits train, valid, test and metrics loss, ppl, bpc, acc (in
percent), GLUE's in percent (log_lines.MEASURES; acc_mismatched of MNLI), or epoch, seconds, params,
best_epoch.
"""

from report import log_lines, metrics_csv
from report.step_files import Step

Numbers = dict[str, float | None]
# What decided which weights were kept; a task of GLUE that has a measure of its own goes by that.
BEST = (("valid_mcc", max), ("valid_acc_and_f1", max), ("valid_pearson_and_spearman", max),
        ("valid_loss", min), ("valid_ppl", min), ("valid_bpc", min),
        ("valid_acc", max))


def of_step(step: Step) -> tuple[list[Numbers], Numbers]:
    """(curve, closing numbers) of a step that has succeeded. Raises UserError.

    A step that trained has said where its metrics.csv is; the log then adds only what is not in
    there (the parameters' number, seconds per epoch). One that only evaluated, and fairseq's, have
    no metrics.csv: all their numbers come from the log.
    """
    curve, final = log_lines.parse_log(step.log.read_text(errors="replace"))
    folder = metrics_csv.latest_folder(step.curves)
    if folder is None:
        return curve, add_best(curve, final)
    seconds = {point["epoch"]: point["seconds"] for point in curve if "seconds" in point}
    known = {name: final[name] for name in ("params",) if name in final}
    curve, final, judge = metrics_csv.read(folder)
    for point in curve:
        if "seconds" not in point and point["epoch"] in seconds:
            point["seconds"] = seconds[point["epoch"]]
    return curve, known | add_best(curve, final, judge)


def best_epoch(curve: list[Numbers], judge: str | None = None) -> Numbers | None:
    """The point whose weights the script kept: the best on the validation data, by `judge` or the
    first of BEST that there is; of equals the first."""
    for name, best in sorted(BEST, key=lambda pair: pair[0] != judge):
        points = [point for point in curve if point.get(name) is not None]
        if points:
            return best(points, key=lambda point: point[name])
    return None


def add_best(curve: list[Numbers], final: Numbers, judge: str | None = None) -> Numbers:
    """Completes the closing numbers with those of the best epoch; the script's own win."""
    best = best_epoch(curve, judge)
    if best is not None and not any(name.startswith("valid_") for name in final):
        final["best_epoch"] = best["epoch"]
        final.update((name, best[name]) for name in best if name.startswith("valid_"))
    if curve and not any(name.startswith("test_") for name in final):
        point = best or curve[-1]  # scripts that test after every epoch and never at the end
        final.update((name, point[name]) for name in point if name.startswith("test_"))
    return final
