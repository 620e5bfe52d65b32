"""What this machine can do, looked at one library and one device at a time: what fails is a finding, no traceback."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from lorafit.data.cache import default_cache
from lorafit.errors import MachineError, first_line
from lorafit.report.finding import Finding, Status
from lorafit.report.units import gibibytes

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "huggingface_hub", "pyarrow")
NEEDED_LATER = ("bitsandbytes", "datasets")  # a recipe may do without
DRIVER = Path("/proc/driver/nvidia/version")
TRAP = "training keeps the layout that has a backward, on CPUs with AVX512-BF16 too"


def examine(ask_hub: bool = False) -> list[Finding]:
    """Look at everything; nothing is fetched, and the hub is asked only if `ask_hub`."""
    found = [*software(), *devices(), *host(), *several_processes(), *accelerators()]
    return [*found, hub(), *([hub_answer()] if ask_hub else [])]


def software() -> Iterator[Finding]:
    """Python, and each package: does it load, and is it a version that lorafit knows."""
    yield Finding("software", "python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    wanted = _bounds()
    for name in PACKAGES:
        yield _package(name, wanted.get(name.replace("_", "-"), ""))
    yield bitsandbytes()


def _bounds() -> dict[str, str]:
    """Give the versions that lorafit asks for, by package; none where it runs without being installed."""
    try:
        lines = metadata.requires("lorafit") or []
    except metadata.PackageNotFoundError:
        return {}
    parts = (re.fullmatch(r"([\w.-]+)\s*([^;]*)", line) for line in lines if "extra ==" not in line)
    return {part[1]: part[2] for part in parts if part}


def _package(name: str, bounds: str) -> Finding:
    try:
        import_module(name)
        version = metadata.version(name)
    except Exception as error:  # noqa: BLE001  # a broken library fails in its own way
        status: Status = "off" if name in NEEDED_LATER else "broken"
        return Finding("software", name, status, f"does not load: {first_line(error)}", f"pip install '{name}{bounds}'")
    if bounds and not _meets(version, bounds):
        return Finding("software", name, "broken", f"{version}, needed is {bounds}", f"pip install '{name}{bounds}'")
    return Finding("software", name, "ok", version)


def _meets(version: str, bounds: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)


def bitsandbytes() -> Finding:
    """Quantise a few weights and multiply by them: loading alone proves little."""
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.linspace(-1, 1, 64 * 64, device="cuda" if torch.cuda.is_available() else "cpu").view(64, 64)
        apart = float((dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")) - weight).abs().max())
        if apart > 0.2:
            raise RuntimeError(f"4-bit weights come back {apart:.2g} away")
        version = metadata.version("bitsandbytes")
    except Exception as error:  # noqa: BLE001  # it loads a shared library, which fails in many ways
        what = f"does not work: {first_line(error)}"
        fix = "needed by quantization nf4, fp4, int8 and by 8-bit and paged optimizers: install one for this machine"
        return Finding("software", "bitsandbytes", "off", what, fix)
    return Finding("software", "bitsandbytes", "ok", f"{version}, quantises here; {TRAP}")


def devices() -> Iterator[Finding]:
    """Say how torch was built, and name each card, or say why there is none."""
    try:
        import torch
    except Exception:  # noqa: BLE001  # said already, under software
        return
    driver = _driver()
    if not torch.cuda.is_available():
        yield Finding("device", "card", "off", _why_no_card(torch, driver), _mend_no_card(torch, driver))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _card(torch, index, driver)
    has = [name for name in ("avx512_bf16", "amx_tile") if getattr(torch.cpu, f"_is_{name}_supported", bool)()]
    bfloat16 = f"bfloat16 by {', '.join(has)}" if has else "bfloat16 is emulated (slower than float32)"
    yield Finding(
        "device",
        "cpu",
        "ok",
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{bfloat16}",
    )


def _driver() -> str | None:
    """Read the version of the driver, None without one."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", DRIVER.read_text())
    except OSError:
        return None
    return found[0] if found else "unknown"


def _why_no_card(torch: Any, driver: str | None) -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA" + (
            f", though driver {driver} is here" if driver else ""
        )
    return f"torch is built for CUDA {torch.version.cuda}, but " + (
        f"driver {driver} gives it no card" if driver else "there is no NVIDIA driver"
    )


def _mend_no_card(torch: Any, driver: str | None) -> str:
    if driver is None:
        return ""
    if torch.version.cuda is None:
        return "install torch for CUDA: constraints.txt says how"
    return f"see CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}), or renew the driver"


def _card(torch: Any, index: int, driver: str | None) -> Finding:
    try:
        free, total = torch.cuda.mem_get_info(index)
        card = torch.cuda.get_device_properties(index)
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except Exception as error:  # noqa: BLE001  # a card that is lost or held by another
        return Finding("device", f"cuda:{index}", "broken", first_line(error), "see nvidia-smi")
    what = (
        f"{card.name}, compute capability {card.major}.{card.minor}, {gibibytes(free)} of {gibibytes(total)} free, "
        f"{'bfloat16' if bfloat16 else 'no bfloat16: computes in float32'}, CUDA {torch.version.cuda}, driver {driver}"
    )
    return Finding("device", f"cuda:{index}", "ok", what)


def host() -> Iterator[Finding]:
    """Memory, the disk that runs are written to, and the cache of prepared rows."""
    import psutil

    memory = psutil.virtual_memory()
    yield Finding("host", "memory", "ok", f"{gibibytes(memory.available)} of {gibibytes(memory.total)} free")
    yield Finding("host", "disk", "ok", f"{gibibytes(shutil.disk_usage('.').free)} free where this runs")
    yield _cache()


def _cache() -> Finding:
    try:
        cache = default_cache()
    except MachineError as error:
        fault = error.faults[0]
        return Finding("host", "row cache", "broken", fault.what, fault.fix)
    if cache is None:
        return Finding("host", "row cache", "off", "LORAFIT_CACHE=off, or there is no home folder")
    there = next(folder for folder in (cache.root, *cache.root.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding("host", "row cache", "off", f"{there} cannot be written", "set LORAFIT_CACHE to a folder")
    room = gibibytes(shutil.disk_usage(there).free)
    return Finding("host", "row cache", "on", f"{cache.root}, at most {gibibytes(cache.limit_bytes)}, {room} free")


def several_processes() -> Iterator[Finding]:
    """Say which ways of adding up gradients there are."""
    try:
        import torch.distributed as distributed
    except Exception:  # noqa: BLE001  # said already, under software
        return
    there = distributed.is_available()
    gloo, nccl = there and distributed.is_gloo_available(), there and distributed.is_nccl_available()
    why = "" if gloo else "not in this build of torch"
    yield Finding("processes", "gloo (CPU)", "on" if gloo else "off", why or "--gpus N works on a CPU")
    yield Finding("processes", "NCCL (cards)", "on" if nccl else "off", "in torch" if nccl else "not in this build")


def accelerators(attention: str = "flash_attention_2") -> Iterator[Finding]:
    """Optional ones, by name: is it there, and is it used, where a recipe's `model.attention` is this."""
    needless = "not needed: on a card torch's own variable-length kernel keeps documents apart"
    yield _optional("flash-attn", needless, asked=attention == "flash_attention_2")
    own = "loss, norms and gated MLPs have a backward of lorafit's own, which keeps less"
    yield _optional("liger-kernel", f"no use for it: {own}", asked=False)
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    what = "this version does not use it" + ("" if compiler else "; there is no C++ compiler either")
    yield Finding("accelerators", "torch.compile", "off", what)


def _optional(name: str, why_off: str, *, asked: bool) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("accelerators", name, "off", f"not installed; {why_off}")
    if asked:
        return Finding("accelerators", name, "on", f"{version}, for model.attention: flash_attention_2")
    return Finding("accelerators", name, "off", f"{version} is installed; {why_off}")


def hub() -> Finding:
    """Say what the settings allow; nobody is asked. A token is not shown."""
    try:
        from huggingface_hub import constants, get_token
    except Exception as error:  # noqa: BLE001  # said already, under software
        return Finding("hub", "hub", "off", first_line(error))
    token = "with a token" if get_token() else "without a token: gated models cannot be had"
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "hub", "off", f"HF_HUB_OFFLINE is set: only what is in {constants.HF_HUB_CACHE}")
    return Finding("hub", "hub", "ok", f"{constants.ENDPOINT}, {token}, cache {constants.HF_HUB_CACHE}; not asked")


def hub_answer() -> Finding:
    """Ask the hub whether it answers. Off, too, where the settings say offline."""
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # noqa: BLE001  # a proxy, a name, a certificate, a route: each in its own way
        return Finding("hub", "answer", "off", f"it cannot be reached: {first_line(error)}", "work with local folders")
    return Finding("hub", "answer", "on", f"it answers ({answer.status_code})")
