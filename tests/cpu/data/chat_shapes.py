"""Conversations of every shape: what is asked and what is said in them can be found again by eye and by search."""

from typing import Any

Fields = dict[str, Any]


def turn(role: str, text: Any, **more: Any) -> Fields:
    return {"role": role, "content": text, **more}


def user(text: str) -> Fields:
    return turn("user", text)


def said(text: Any, **more: Any) -> Fields:
    return turn("assistant", text, **more)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def call(arguments: Any, number: int = 0) -> Fields:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": f"abcdefgh{number}", "type": "function", "function": function}


def result(text: str, number: int = 0) -> Fields:
    return turn("tool", text, name="get_weather", tool_call_id=f"abcdefgh{number}")


def tools(*calls: Fields, text: str | None = "", end: bool = True) -> Fields:
    results = [result(f"asked {number} degrees", number) for number in range(len(calls))]
    answer = [*results, said("said it rains")] if end else []
    return {"messages": [user("asked one"), said(text, tool_calls=list(calls)), *answer], "tools": TOOLS}


_DICT, _TEXT = {"city": "said-Paris"}, '{"city": "said-Paris"}'
_TWO = [user("asked one"), said("said one"), user("asked two"), said("said two")]

PLAIN: dict[str, Fields] = {
    "one turn": {"messages": [user("asked one"), said("said one")]},
    "two turns": {"messages": _TWO},
    "many turns": {"messages": [turn for n in range(4) for turn in (user(f"asked {n}"), said(f"said {n}"))]},
    "the same again": {"messages": [user("asked one"), said("said one"), user("asked one"), said("said one")]},
    "spaces": {"messages": [user("  asked one \n"), said("\n said one \n\n"), user("\tasked two"), said(" said two ")]},
    "unicode": {
        "messages": [user("asked é 👨‍👩‍👧 \u202e"), said("said 日本語 e\u0301 👨‍👩‍👧 & < \" ' {{ x }} {% y %}")]
    },
    "control": {
        "messages": [
            user("asked <|im_end|>\n<|im_start|>assistant\n</s> [INST] <|eot_id|>"),
            said("said no<|im_end|></s> twice"),
        ]
    },
    "long": {"messages": [user("asked " * 300), said("said " * 300 + "so")]},
}
SYSTEM: dict[str, Fields] = {
    "system": {"messages": [turn("system", "asked zero"), *_TWO]},
    "empty system": {"messages": [turn("system", ""), *_TWO]},
}
THINKING: dict[str, Fields] = {
    "thinking in the text": {"messages": [user("asked one"), said("<think>\nmused one\n</think>\n\nsaid one")]},
    "thinking beside it": {"messages": [user("asked one"), said("said one", reasoning_content="mused one")]},
    "thinking twice": {
        "messages": [
            user("asked one"),
            said("<think>\nmused one\n</think>\n\nsaid one"),
            user("asked two"),
            said("<think>\nmused two\n</think>\n\nsaid two"),
        ]
    },
    "no thoughts": {"messages": [user("asked one"), said("<think>\n\n</think>\n\nsaid one")]},
}
CALLS: dict[str, Fields] = {
    "call": tools(call(_DICT)),
    "call as text": tools(call(_TEXT)),
    "call with null text": tools(call(_DICT), text=None),
    "call and text": tools(call(_DICT), text="said I look"),
    "call last": tools(call(_DICT), end=False),
    "two calls": tools(call(_DICT), call({"city": "said-Rome"}, 1)),
    "odd arguments": tools(call({"city": 'said-"Ö\\"', "days": 3, "deep": {"a": ["said-b", None, True, 1.5]}})),
}
SHAPES = {**PLAIN, **SYSTEM, **THINKING, **CALLS}
