"""What will happen: the shapes of models, the sizes of a run, its schedule and its memory.

Records here are named tuples, for each start of a command pays for them: a frozen dataclass writes and compiles six
methods, which takes five to nine times as long. Dataclasses are those that keep what they have computed, or change.
"""
