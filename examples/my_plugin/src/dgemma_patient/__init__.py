"""The plugin: says what it has and where. It imports no torch, so it costs a command nothing."""

from dgemma_backend.hookspecs import StopRuleRecord, hookimpl


@hookimpl
def dgemma_stop_rules() -> list[StopRuleRecord]:
    return [
        StopRuleRecord(
            "patient",
            "dgemma_patient.rule:Patient",
            summary="the draft has stayed the same for four steps, however unsure the model is",
        )
    ]
