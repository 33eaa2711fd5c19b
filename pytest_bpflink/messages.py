"""What the controller and its workers tell each other beside xdist's own messages."""

from __future__ import annotations
