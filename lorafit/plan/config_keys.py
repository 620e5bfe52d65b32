"""Reading the numbers of a `config.json`, with every fault kept until the end."""

from collections.abc import Mapping

from lorafit.errors import Fault, ModelError

LARGEST = 10**8  # no width or count of a model is above this; a larger one is a broken file


class ConfigKeys:
    """Typed access to a model configuration; `done()` raises what was missing or wrong, all at once."""

    def __init__(self, config: Mapping[str, object], name: str) -> None:
        self._config, self._name = config, name
        self._faults: dict[str, Fault] = {}

    def has(self, name: str) -> bool:
        """Tell whether the key is there, be it null."""
        return name in self._config

    def integer(self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """Take the first key that is there; null counts as absent."""
        found = next((name for name in names if self._config.get(name) is not None), None)
        if found is None and default is not None:
            return default
        value = self._config[found] if found else None
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self._fault(found or names[0], f"a whole number from {least} to {most:,}", value)
        return max(least, 1)

    def optional(self, name: str) -> int | None:
        """Give the number, or None where the key is absent or null."""
        return None if self._config.get(name) is None else self.integer(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """Give true or false."""
        value = self._config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._fault(name, "true or false", value)
        return value is True

    def share(self, name: str | None, default: float = 0.0) -> float:
        """Give a number from 0 to 1, such as what a dropout zeroes."""
        value = None if name is None else self._config.get(name)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return value
        self._fault(str(name), "a number from 0 to 1", value)
        return default

    def rotary_share(self, name: str, usual: float) -> float:
        """Give the share of a head that turns: by this key, or as transformers 5 writes it."""
        rope = self._config.get("rope_parameters")
        if isinstance(rope, Mapping) and "partial_rotary_factor" in rope:
            return ConfigKeys(rope, self._name).share("partial_rotary_factor", usual)
        return self.share(name, usual)

    def listed(self, name: str) -> list[object] | None:
        """Give the list, or None where the key is absent or null."""
        value = self._config.get(name)
        if value is None or isinstance(value, list):
            return value
        self._fault(name, "a list", value)
        return None

    def refuse(self, name: str, expected: str) -> None:
        """Note that a key does not agree with the others."""
        self._fault(name, expected, self._config.get(name))

    def done(self) -> None:
        """Raise ModelError when anything was wrong."""
        if self._faults:
            raise ModelError(list(self._faults.values()))

    def _fault(self, key: str, expected: str, found: object) -> None:
        has = "the key is missing" if found is None else f"found {repr(found)[:60]}"
        self._faults[key] = Fault(
            f"{key}: expected {expected}, {has}",
            where=self._name,
            code="E4-CONFIG",
            fix="take the config.json that came with the weights",
        )
