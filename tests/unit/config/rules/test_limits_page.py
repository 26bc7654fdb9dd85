"""The examples of docs/operations/limits.md are configs that the service accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from google.protobuf.json_format import ParseDict
from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts
from services.config.rules.validation import validate_config

PAGE = Path(__file__).parents[4] / "docs/operations/limits.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
AROUND = Surroundings(
    "tenants/acme",
    {"models/smollm2": 2048},
    {"pools/p": PoolFacts("models/smollm2", "")},
    has_key=lambda key_id: key_id == "4f1c2b9d8e7a6053",
)


def test_there_are_examples():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_accepted(example):
    config = ParseDict(yaml.safe_load(example), tenant_pb2.TenantConfig())
    config.models.add(alias="assistant", base_model="models/smollm2")
    assert validate_config(config, AROUND) == []
