"""foedus: one federated training plan, unchanged, in a fast simulation and in a live federation."""

__version__ = "0.1.0"
