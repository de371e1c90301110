"""What staleness leaves of an update: ``s(tau)`` for an update that began ``tau`` versions of the model ago.

Xie, Koyejo and Gupta, Asynchronous Federated Optimization (OPT 2020, https://arxiv.org/abs/1903.03934), section 5.2:
constant, polynomial, hinge.
"""

from __future__ import annotations

from foedus.domain.timing import StalenessTable


def factor(options: StalenessTable, tau: int) -> float | None:
    """``s(tau)``, or none where ``tau`` is over the maximum.

    >>> factor(StalenessTable(a=0.5), 3)
    0.5
    """
    if options.maximum is not None and tau > options.maximum:
        return None
    if options.name == "polynomial":
        return float((1.0 + tau) ** -options.a)
    if options.name == "hinge" and tau > options.b:
        return 1.0 / (options.a * (tau - options.b) + 1.0)
    return 1.0
