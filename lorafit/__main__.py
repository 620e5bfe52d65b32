"""Where the command begins, as `lorafit` and as `python -m lorafit`."""

import gc


def main() -> None:
    """Load the commands with the garbage collector at rest, for modules are no garbage, and run the one asked for."""
    gc.disable()
    from lorafit.cli import main as run

    gc.freeze()  # nor will it ever look through them again
    gc.enable()
    run()


if __name__ == "__main__":
    main()
