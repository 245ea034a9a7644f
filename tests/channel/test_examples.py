"""The examples in the docstrings of the channels are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import zpipe.channel

MODULES = sorted(found.name for found in pkgutil.iter_modules(zpipe.channel.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    module = importlib.import_module(f"zpipe.channel.{name}")
    assert doctest.testmod(module, optionflags=doctest.FAIL_FAST).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_each_public_class_that_programs_make_has_an_example(name: str) -> None:
    """Those are the ones that `zpipe` offers by name: the others serve inside the package."""
    module = importlib.import_module(f"zpipe.channel.{name}")
    for offered in set(zpipe.__dir__()) & set(vars(module)):
        thing = getattr(module, offered)
        if isinstance(thing, type) and thing.__module__ == module.__name__:
            assert ">>>" in (thing.__doc__ or ""), f"{offered} has no example"
