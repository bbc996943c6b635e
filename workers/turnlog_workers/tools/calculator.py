"""The tool ``calculator``: arithmetic, exact to 34 decimal digits. Reads an expression itself; nothing is evaluated."""

import ast
import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, DecimalException, DivisionByZero, InvalidOperation, Overflow

from turnlog_workers.tools.base import ToolError
from turnlog_workers.tools.function_tool import tool

MAX_CHARACTERS = 500
DIGITS = 34
_CONTEXT = Context(prec=DIGITS, Emax=6144, Emin=-6143, traps=[InvalidOperation, DivisionByZero, Overflow])
_CONSTANTS = {"pi": Decimal("3.141592653589793238462643383279503"), "e": Decimal("2.718281828459045235360287471352662")}


def _by_float(function: Callable[[float], float]) -> Callable[..., Decimal]:
    """Of the trigonometric functions decimal arithmetic knows none: 15 digits of them are right."""
    return lambda value: Decimal(repr(function(float(value))))


def _floor(value: Decimal) -> Decimal:
    return value.to_integral_value(rounding="ROUND_FLOOR")


def _rounded(value: Decimal, digits: Decimal = Decimal(0)) -> Decimal:
    places = int(digits)
    if not -DIGITS <= places <= DIGITS:
        raise ToolError(f"round takes -{DIGITS} to {DIGITS} digits")
    return value.quantize(Decimal(1).scaleb(-places), rounding="ROUND_HALF_EVEN", context=_CONTEXT)


def _modulo(one: Decimal, other: Decimal) -> Decimal:
    """With the sign of the divisor, as mathematicians have it."""
    rest = _CONTEXT.remainder(one, other)
    return _CONTEXT.add(rest, other) if rest and (rest < 0) != (other < 0) else rest


def _floor_divided(one: Decimal, other: Decimal) -> Decimal:
    return _CONTEXT.divide_int(_CONTEXT.subtract(one, _modulo(one, other)), other)


_FUNCTIONS: Mapping[str, Callable[..., Decimal]] = {
    "abs": _CONTEXT.abs,
    "ceil": lambda value: value.to_integral_value(rounding="ROUND_CEILING"),
    "exp": _CONTEXT.exp,
    "floor": _floor,
    "ln": _CONTEXT.ln,
    "log10": _CONTEXT.log10,
    "max": max,
    "min": min,
    "round": _rounded,
    "sqrt": _CONTEXT.sqrt,
    "sin": _by_float(math.sin),
    "cos": _by_float(math.cos),
    "tan": _by_float(math.tan),
    "atan": _by_float(math.atan),
}
_BINARY: Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: _CONTEXT.add,
    ast.Sub: _CONTEXT.subtract,
    ast.Mult: _CONTEXT.multiply,
    ast.Div: _CONTEXT.divide,
    ast.FloorDiv: _floor_divided,
    ast.Mod: _modulo,
    ast.Pow: _CONTEXT.power,
}


@tool(idempotent=True)
async def calculator(expression: str) -> str:
    """Calculate an arithmetic expression: + - * / // % **, parentheses, pi, e, and the functions abs, ceil, exp, floor,
    ln, log10, max, min, round(value, digits), sqrt, sin, cos, tan, atan (in radians).

    Args:
        expression: such as (1234.5 * 1.19) / 12. A point separates decimals, nothing separates thousands.
    """
    return calculated(expression)


def calculated(expression: str) -> str:
    """The value as a text. Raises :class:`ToolError` with what is wrong."""
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_CHARACTERS} are read")
    text = expression.strip()
    try:
        tree = ast.parse(text, mode="eval")
        value = _value(tree.body, text)
    except (SyntaxError, ValueError) as error:
        raise ToolError("this is no arithmetic expression") from error
    except (RecursionError, MemoryError) as error:
        raise ToolError("the expression is nested too deep") from error
    except DivisionByZero as error:
        raise ToolError("division by zero") from error
    except (DecimalException, OverflowError) as error:
        raise ToolError("the expression has no value, or none that can be written") from error
    return _shown(value)


def _value(node: ast.expr, text: str) -> Decimal:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return _number(ast.get_source_segment(text, node) or "")
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub()):
            return _CONTEXT.minus(_value(node.operand, text))
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, text)
        case ast.BinOp() if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](_value(node.left, text), _value(node.right, text))
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            arguments = [_value(argument, text) for argument in node.args]
            if not arguments or (len(arguments) > 1 and name not in ("max", "min", "round")) or len(arguments) > 100:
                raise ToolError(f"{name} takes another number of arguments")
            if name == "round" and len(arguments) > 2:
                raise ToolError("round takes a number and how many digits to keep")
            if name in ("max", "min"):
                return _FUNCTIONS[name](arguments)
            return _FUNCTIONS[name](*arguments)
    known = ", ".join(sorted({*_FUNCTIONS, *_CONSTANTS}))
    raise ToolError(f"only numbers, + - * / // % **, parentheses and {known} may be in it")


def _number(source: str) -> Decimal:
    digits = source.replace("_", "")
    if digits[:2].lower() in ("0x", "0o", "0b"):
        return _CONTEXT.create_decimal(int(digits, 0))
    return _CONTEXT.create_decimal(digits)


def _shown(value: Decimal) -> str:
    if not value.is_finite():
        raise ToolError("the expression has no value, or none that can be written")
    if value.adjusted() < DIGITS and value == value.to_integral_value():
        return f"{value.to_integral_value():f}"
    return f"{value.normalize(_CONTEXT):f}" if abs(value.adjusted()) < DIGITS else str(value.normalize(_CONTEXT))
