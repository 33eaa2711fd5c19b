"""What the fixtures `bpf_open` and `bpf_object` do for a test, beside opening and loading.

Paths are relative to the test's file. Maps that are pinned by name are pinned in a BPF FS of the
test, since a map that another test has left in a shared one would be used again. The kernel's
configuration is the one that `bpf_kernel` has, which is found in more places than libbpf looks in.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.bpf import configuration
from pytest_bpflink.bpf.objects import Object
from pytest_bpflink.building import inline_sources
from pytest_bpflink.building.compilation import object_of
from pytest_bpflink.building.recipe import Recipe
from pytest_bpflink.errors import is_bpf_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

    _Paths = str | os.PathLike[str]


class Opener:
    """Opens the objects of a test, and closes them at the end of a `with` block."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._beside = request.path.parent
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def open(
        self,
        path: _Paths | Sequence[_Paths],
        *,
        defines: Mapping[str, object] | None = None,
        include: Sequence[_Paths] = (),
        kconfig: Mapping[str, object] | None = None,
        pin_root: _Paths | None = None,
        btf: _Paths | None = None,
        **choices: Any,
    ) -> Object:
        """Return an object that is not loaded yet, with the choices of `Object.configure()`."""
        __tracebackhide__ = is_bpf_error
        given = [path] if isinstance(path, str | os.PathLike) else path
        paths = [self._beside / each for each in given]
        directories = [self._beside / each for each in include]
        if any(map(inline_sources.is_one, paths)):
            directories.append(self._beside)
        file = object_of(Recipe.of(paths, defines, directories))
        opened = Object.open(
            file,
            kconfig=self._configuration(file, kconfig),
            pin_root=pin_root,
            btf=btf and self._beside / btf,
        )
        opened.path = paths[0]
        self._undo.enter_context(opened)
        if pin_root is None:
            self._pin_in_own(opened)
        return opened.configure(**choices)

    def load(self, path: _Paths | Sequence[_Paths], *, load: bool = True, **choices: Any) -> Object:
        """Return an object, loaded unless LOAD is false, with the choices of `open`."""
        __tracebackhide__ = is_bpf_error
        opened = self.open(path, **choices)
        return opened.load() if load else opened

    def _configuration(
        self, file: Path, given: Mapping[str, object] | None
    ) -> Mapping[str, object] | None:
        if not file.is_file() or not configuration.is_asked_for(file):
            return given
        # libbpf takes the first value of a name.
        known = self._request.getfixturevalue("bpf_kernel").config
        return {**(given or {}), **{name: known[name] for name in known.keys() - (given or {})}}

    def _pin_in_own(self, opened: Object) -> None:
        for each in opened.maps.values():
            if each.pin_path is not None:
                bpffs = self._request.getfixturevalue("bpffs")
                each.set_pin_path(bpffs / each.pin_path.name)
