"""What every test can ask for."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.broker_fixture", "tests.several_processes"]

# A busy machine is no finding: examples have no time limit of their own, the test has.
settings.register_profile("turnlog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnlog")
