"""The table ``[trainer]`` of run.toml: the DLR FL Demonstrator's options, with its names, meaning and defaults."""

from __future__ import annotations

from foedus.domain.table import Table


class TrainerTable(Table):
    """Model tests, and what becomes of the clients' updates.

    ``skip_model_tests``: no client tests the model. ``model_test_after_each_round``: they do so after each round
    (after every so many, where ``test.every`` says so), and else once, after the last one. Where
    ``delete_local_models_after_aggregation`` is false, each client's update of each round stays with the coordinator
    and can be fetched; a simulation never stores one.
    """

    skip_model_tests: bool = False
    model_test_after_each_round: bool = True
    delete_local_models_after_aggregation: bool = True
