"""The suite that every runner should pass, with what is this one's own."""

from turnlog.testing import RunnerConformance


class TestShouting(RunnerConformance):
    model = "shout:"
    failing = {"shout:nonsense": "bad_model_name"}  # model names, and the code that each must fail with
    deterministic = True  # the same turn has the same outputs, also when it is resumed
    reports_usage = False  # it yields no UsageReport
