"""The evaluators that a campaign file can name."""

from evaluators.registry import Registry

EVALUATORS = Registry(
    "evaluator",
    {
        "lm_harness": "evaluators.lm_harness:LmHarness",
        "function": "evaluators.function:Function",
        "ctm": "evaluators.ctm.evaluator:Ctm",
    },
)
