"""What a published run would need, where the row itself lacks the setting that decides: a bound, and no proof."""

from dataclasses import replace

from scripts.vram_reasons import Case, measured_bytes, row_key, run_key, traces

GB, GIB = 1e9, 2**30
LARGEST_CONTEXT_BYTES = 2 * GIB  # of published runs that were read both by torch and by nvidia-smi


def needs_shorter_rows(case: Case) -> str:
    """Solve for the longest row that takes what was measured; nothing where rows of the full length take less."""
    low, high = 0, case.question.max_length
    if case.error <= 0:
        return ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _at(case, middle).error <= 0 else (low, middle)
    return f"would need a longest row of {low:,} tokens, of {case.question.max_length:,} at most" if low else ""


def _at(case: Case, length: int) -> Case:
    return replace(case, question=replace(case.question, max_length=length))


def needs_context(case: Case) -> str:
    """Solve for the CUDA context that would make up what is lacking; nothing where none so large was seen."""
    context = measured_bytes(case.row) - (case.bytes - case.beside_bytes)
    if not 0 < context <= LARGEST_CONTEXT_BYTES:
        return ""
    return f"would need a CUDA context of {context / GIB:.1f} GiB, of {LARGEST_CONTEXT_BYTES / GIB:.1f} at most seen"


def needs_cards(case: Case) -> str:
    """Say what weights, gradients and AdamW's states alone take, and over how many cards that is no more."""
    alone = traces("litgpt").get(row_key(case.row), {}).get("states alone", 0)
    assert isinstance(alone, int)
    measured = measured_bytes(case.row)
    if alone <= measured:
        return ""
    cards = -(-alone // measured)
    return f"weights, gradients and states alone are {alone / GB:.1f} GB: would need {cards} cards or more"


def needs_fewer_targets(case: Case) -> str:
    """Say what its own code takes with adapters on queries and values alone."""
    size = traces("litgpt").get(row_key(case.row), {}).get("query and value")
    if not isinstance(size, int):
        return ""
    error = size / measured_bytes(case.row) - 1
    return f"would need adapters on query and value alone: {size / GB:.2f} GB by its own code ({error:+.1%})"


def lies_between_draws(case: Case) -> str:
    """Say what its step reserves at one length, and over rows drawn as its data is; nothing where it is outside."""
    found = traces("swift").get(run_key(case.row))
    if found is None:
        return ""
    alone, draws = found["one length"], found["draws"]
    assert isinstance(alone, int)
    assert isinstance(draws, list)
    measured, most = measured_bytes(case.row), max(draws)
    if not alone <= measured <= most:
        return ""
    told = ", ".join(f"{size / GB:.1f}" for size in draws)
    return (
        f"replayed, {alone / GB:.1f} GB at one length, {told} over {found['passes']} passes of lengths as its data has"
    )


def lies_between_other_draws(case: Case) -> str:
    """Say the same of rows whose own lengths are not known."""
    told = lies_between_draws(case)
    return f"would need lengths as far apart as the other tables' data has ({told})" if told else ""
