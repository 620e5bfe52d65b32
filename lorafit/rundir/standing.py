"""How a run stands, in words: what it wrote last of itself, and whether the process that trained it is still there."""

from dataclasses import dataclass

from lorafit.rundir import journal
from lorafit.rundir.holder import Holder
from lorafit.rundir.layout import RunFolder


@dataclass(frozen=True)
class Standing:
    """What became of a run, as a predicate (`is stopped at step 7`), and how it comes to its end."""

    what: str
    fix: str


def stands(folder: RunFolder, status: str, marked_step: int, holder: Holder | None, *, locked: bool) -> Standing:
    """Describe a run that says it is `status`, was signed by `holder`, and is `locked` by a process that writes it.

    A killed process leaves "running" behind it and its name in the lock file; a lock is sure where there is one, but
    another machine may not see it.
    """
    step = _last_step(folder, marked_step)
    if locked or (status == "running" and holder is not None and holder.fate == "lives"):
        by = f" by {holder}" if holder else ""
        return Standing(f"is being trained{by}, at step {step}", "wait until it ends")
    if status == "running" and holder is not None and holder.fate == "unknown":
        what = f"was at step {step} under {holder}, and this machine cannot tell whether it still runs there"
        return Standing(what, f"look on {holder.host}; once it has ended: lorafit train RECIPE --resume")
    end = "stopped without a word (killed?)" if status == "running" else f"is {status}"
    return Standing(f"{end} at step {step}", "finish it: lorafit train RECIPE --resume")


def _last_step(folder: RunFolder, marked_step: int) -> int:
    """Give the last step that was taken: run.json is marked at saves, metrics.jsonl after every step."""
    taken = [line["step"] for line in journal.read_metrics(folder)[-1:] if isinstance(line.get("step"), int)]
    return max(marked_step, *taken) if taken else marked_step
