"""Arithmetic, read as a tree and computed step by step: nothing else of Python can run."""

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from herd.errors import RequestError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_NAMES: dict[str, Any] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(math, name)
        for name in (
            "sqrt", "cbrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh",
            "cosh", "tanh", "floor", "ceil", "gcd", "lcm", "hypot", "degrees", "radians",
        )
    },
    "ln": math.log, "abs": abs, "round": round, "min": min, "max": max,
    "factorial": lambda n: math.factorial(n) if n <= 1000 else _refuse("factorial above 1000"),
}  # fmt: skip
_PERCENT_OF = re.compile(r"(\d+(?:\.\d+)?)\s*%\s*of\b")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%(?=\s*(?:$|[)+\-*/,]))")
_MOST_BITS = 10_000
_LONGEST = 1000


def _refuse(what: str) -> Any:
    raise RequestError(f"{what} is more than the calculator takes")


def calculate(expression: str) -> str:
    """The value of an expression; RequestError saying what is not understood or not possible."""
    if len(expression) > _LONGEST:
        _refuse(f"an expression of over {_LONGEST:,} characters")
    text = _PERCENT_OF.sub(r"(\1/100)*", expression.strip().rstrip("=?"))
    text = _PERCENT.sub(r"(\1/100)", text).replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    try:
        value = _value(ast.parse(text, mode="eval").body)
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            value = int(value)
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise RequestError(
            f"{expression[:80]!r} is not arithmetic the calculator reads, like sqrt(2) * 3**4"
        ) from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise RequestError(f"{expression[:80]!r} has no value: {error}") from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            if (
                isinstance(op, ast.Pow)
                and isinstance(a, int)
                and isinstance(b, int)
                and a.bit_length() * b > _MOST_BITS
            ):
                _refuse(f"{a}**{b}")
            result = _BINARY[type(op)](a, b)
            return _refuse("the result") if isinstance(result, int) and result.bit_length() > _MOST_BITS else result
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.Name(name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(ast.Name(name), args, []) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, args))
    raise SyntaxError(ast.dump(node)[:50])
