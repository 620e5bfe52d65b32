"""The answer of a trace alone, for families of which lorafit has no table of what a layer keeps."""

from lorafit.plan.bands import band
from lorafit.plan.exact import Exact
from lorafit.plan.question import Component
from lorafit.plan.vram import Answer, fit_on


def as_traced(answer: Answer, exact: Exact) -> Answer:
    """Put what the trace found in place of an estimate that knew nothing of the layers."""
    peak, reserved = exact.peak_bytes, exact.reserved
    low, high = band(answer.question).around(peak)
    loading, workspace = answer.estimate.phases["loading"], exact.workspace_bytes
    found = answer.estimate._replace(
        peak_bytes=peak,
        low_bytes=low,
        high_bytes=high,
        peak_phase=exact.peak_phase,
        components=tuple(Component(name, size, "traced") for name, size in exact.components().items()),
        phases={"loading": loading, **{phase: moment.total + workspace for phase, moment in exact.moments.items()}},
        reserved_bytes=max(0, reserved.expandable_bytes - peak) if reserved else 0,
    )
    fit = fit_on(answer.fit.card, found, []) if answer.fit else None
    return answer._replace(estimate=found, fit=fit, exact=exact)
