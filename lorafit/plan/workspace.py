"""What torch takes for products once and for all: a workspace of cuBLAS for each handle, of which each thread has one.

The forward runs in the program's thread, the backward in autograd's thread of the device: two, from the first backward
on. How large one is goes by the card.
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/cuda/CublasHandlePool.cpp (parseChosenWorkspaceSize,
getCurrentCUDABlasHandle); Blackwell since https://github.com/pytorch/pytorch/pull/175344
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/autograd/engine.cpp (a thread for each device)
"""

HANDLES = 2
WORKSPACE_BYTES = HANDLES * 8_519_680  # each 2 x 4 MiB and 8 x 16 KiB
WIDE_WORKSPACE_BYTES = HANDLES * 32 * 2**20
WIDE = (9, 10, 12)  # compute capabilities, the first number: Hopper, Blackwell


def workspace_bytes(capability: int) -> int:
    """Give what a process takes on a card of this compute capability (its first number)."""
    return WIDE_WORKSPACE_BYTES if capability in WIDE else WORKSPACE_BYTES
