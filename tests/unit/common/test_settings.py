"""Settings that are refused are named without the values of the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.cli.settings import CliSettings
from services.common.settings import ServiceSettings

KINDS = [ServiceSettings, CliSettings, *ServiceSettings.__subclasses__()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_settings_class_hides_values_in_its_errors(kind):
    assert kind.model_config["hide_input_in_errors"] is True


def test_a_refusal_names_the_setting_and_no_value():
    pem = "-----BEGIN PRIVATE KEY-----c2VjcmV0"
    with pytest.raises(ValidationError) as caught:
        ServiceSettings(log_level=pem, tls_key_path=pem)
    assert "log_level" in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    shown = type("Shown", (ServiceSettings,), {"model_config": {"hide_input_in_errors": False}})
    with pytest.raises(ValidationError, match="c2VjcmV0"):
        shown(log_level=pem)
