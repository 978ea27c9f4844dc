"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile(
    "p2pd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("p2pd")
