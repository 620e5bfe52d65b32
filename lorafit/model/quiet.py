"""Leave the terminal to lorafit: what the libraries have to say, lorafit says itself, or it is not the user's."""

import os
import sys
import warnings

LIBRARIES = ("bitsandbytes", "transformers", "peft", "accelerate", "huggingface_hub", "torch")


def quiet_libraries() -> None:
    """Silence warnings, notices and progress bars of the libraries; call it before they are imported."""
    import logging  # not needed by what starts fast

    os.environ["USE_HUB_KERNELS"] = "0"  # transformers would fetch kernels, which are code, from the hub
    # and would start a thread that asks the hub about every model it loads
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def without_torch() -> None:
    """Keep torch out of a process that needs only a tokenizer; call it before transformers is imported.

    transformers imports torch, which takes seconds, wherever it finds it, and does without where it does not.
    Where torch is loaded already nothing changes.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would say that it found no torch
    if not {"torch", "transformers"} & set(sys.modules):
        sys.modules["torch"] = None  # type: ignore[assignment]  # how Python marks a module as absent
