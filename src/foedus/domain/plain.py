"""Plain data: what JSON can say. Apart from tensors, so that programs without any need not load them."""

from __future__ import annotations

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
