"""What pytest finds out anew for each item, found out once, or at a glance.

In an emulated guest that is a tenth of a short test. Knows names within pytest (9.0 to 9.2); where
one is not there, pytest does as it does.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from _pytest import fixtures, python

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]


def take() -> None:
    """Have pytest take them, in this process."""
    _replace(python, "getfslineno", _once_a_function)
    _replace(fixtures, "getfuncargnames", _none_at_a_glance)


def _replace(module: Any, name: str, shortened: Callable[[Function], Function]) -> None:
    original = getattr(module, name, None)
    if original is not None:
        setattr(module, name, shortened(original))


def _once_a_function(find: Function) -> Function:
    """Say once where a function is: for each item it is asked whether the file is there."""
    find_once = cache(find)

    def found(obj: object) -> Any:
        return (find_once if type(obj) is FunctionType else find)(obj)

    return found


def _none_at_a_glance(find: Function) -> Function:
    """See that a function has no arguments: each item's `request` is made with one that has none.

    Attributes may say that it stands for another.
    """

    def found(function: Function, *args: Any, **kwargs: Any) -> Any:
        if type(function) is FunctionType and not function.__dict__:
            code = function.__code__
            if not code.co_argcount and not code.co_kwonlyargcount:
                return ()
        return find(function, *args, **kwargs)

    return found
