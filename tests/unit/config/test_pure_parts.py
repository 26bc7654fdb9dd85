from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import load, save
from tenantry.config.v1 import tenant_pb2

from services.common.errors import AbortedError, InvalidArgumentError, ResourceExhaustedError
from services.config.adapters.element_types import ELEMENT_TYPES
from services.config.adapters.peft import Shape, parse_peft
from services.config.adapters.trtllm_rendition import render
from services.config.admin.page_tokens import page
from services.config.admin.update_mask import merged
from services.config.state.allocation import MAX_SERIAL, lora_id, next_number
from services.config.state.config_digest import config_sha256
from services.config.state.etag import etag_of, require_etag
from services.config.state.sealing import SealError, TenantKeys, load_root_key
from tests.fakes.peft_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP, PREFIX, peft_files

SHAPE = Shape(LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP)


def test_a_rendition_has_the_contracts_layout():
    config, weights, tensors = peft_files()
    rendered = load(render(parse_peft(config, weights, SHAPE), "float16", 4).data)
    rows, table = rendered["lora_weights"], rendered["lora_config"]
    assert rows.dtype == np.float16
    assert table.tolist() == [[1, 0, 2, 0], [6, 1, 2, 0]]
    a = tensors[f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"]
    b = tensors[f"{PREFIX}.0.self_attn.q_proj.lora_B.weight"]
    width = max(2 * 8 + 8 * 2, 2 * 12 + 8 * 2)
    assert rows.shape == (2, width)
    assert np.array_equal(
        rows[0], np.concatenate([a.ravel(), 2 * b.ravel(), np.zeros(width - 32, np.float16)])
    )
    again = render(parse_peft(config, weights, SHAPE), "float16", 4)
    assert again.sha256 == render(parse_peft(config, weights, SHAPE), "float16", 4).sha256


Q_A = f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"
BAD = {
    "not finite": ({Q_A: np.full((2, 8), np.nan, np.float16)}, {}),
    "shapes": ({Q_A: np.zeros((2, 9), np.float16)}, {}),
    "lacks one": ({Q_A: None}, {}),
    "no LoRA matrix": ({f"{PREFIX}.0.mlp.router.lora_A.weight": np.zeros((2, 8), np.float16)}, {}),
    "no LoRA matrix ": ({f"{PREFIX}.7.self_attn.q_proj.lora_A.weight": np.zeros((2, 8), np.float16)}, {}),
    "float16, bfloat16, float32": ({Q_A: np.zeros((2, 8), np.int32)}, {}),
    "not LORA": ({}, {"peft_type": "IA3"}),
    "not supported": ({}, {"use_dora": True}),
    "above 0": ({}, {"lora_alpha": -1}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_adapters_are_refused_with_what_is_wrong(what):
    config, weights, _ = peft_files(BAD[what][0], **BAD[what][1])
    with pytest.raises(InvalidArgumentError, match=what.strip()):
        parse_peft(config, weights, SHAPE)


@given(st.binary(max_size=200))
def test_garbage_is_a_typed_error(data):
    with pytest.raises(InvalidArgumentError):
        parse_peft(data, data, SHAPE)


def test_a_scale_that_overflows_float16_is_refused():
    config, weights, _ = peft_files(lora_alpha=500_000)
    with pytest.raises(InvalidArgumentError, match="does not fit float16"):
        render(parse_peft(config, weights, SHAPE), "float16", 3)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_bfloat16_is_the_nearest_upper_half_of_a_float32(numbers):
    kind = ELEMENT_TYPES["bfloat16"]
    values = np.array(numbers, np.float32)
    back = kind.decode(kind.encode(values))
    assert np.array_equal(kind.decode(kind.encode(back)), back)
    fits = np.isfinite(back) & (np.abs(values) >= 2.0**-126)
    error = np.abs(back[fits].astype(np.float64) - values[fits].astype(np.float64))
    assert np.all(error <= np.abs(values[fits].astype(np.float64)) * 2.0**-8)


def test_an_adapter_in_bfloat16_is_taken_and_sent_as_it_is():
    config, _, tensors = peft_files(lora_alpha=2)
    kind = ELEMENT_TYPES["bfloat16"]
    exact = {name: kind.decode(kind.encode(tensor.astype(np.float32))) for name, tensor in tensors.items()}
    adapter = parse_peft(config, save(exact), SHAPE)
    blob = render(adapter, "bfloat16", 3).data
    again = dict(deserialize(blob))["lora_weights"]
    assert (again["dtype"], again["shape"][0]) == ("BF16", 2)
    row = kind.decode(np.frombuffer(again["data"], np.uint16))[:32]
    assert np.array_equal(row, np.concatenate([adapter.modules[0].a.ravel(), adapter.modules[0].b.ravel()]))
    assert (
        parse_peft(config, blob_of(exact, kind), SHAPE).modules[0].a.tolist() == adapter.modules[0].a.tolist()
    )


def blob_of(tensors, kind):
    """The tensors as a bfloat16 safetensors file, which NumPy cannot write."""
    head, body = {}, b""
    for name, tensor in tensors.items():
        data = kind.encode(tensor).tobytes()
        head[name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


@given(st.integers(1, 2**23 - 1), st.integers(0, 255), st.integers(1, 2**32 - 1))
def test_an_adapter_id_names_its_tenant(ordinal, epoch, serial):
    number = lora_id(ordinal, epoch, serial)
    assert 0 < number < 2**63
    assert number >> 40 == ordinal


def test_ids_run_out_instead_of_wrapping():
    assert next_number(None, 5, "x") == 1
    with pytest.raises(ResourceExhaustedError):
        next_number(str(MAX_SERIAL).encode(), MAX_SERIAL, "serial")


def test_sealed_configs_open_for_their_tenant_only(tmp_path):
    keys = TenantKeys(load_root_key(tmp_path / "root"))
    ours, wrapped = keys.create("a")
    theirs, _ = keys.create("b")
    sealed = ours.seal("in force", b"7", b"secret")
    assert keys.open("a", wrapped).open("in force", b"7", sealed) == b"secret"
    assert b"secret" not in sealed
    for key, purpose, bound in ((theirs, "in force", b"7"), (ours, "reason", b"7"), (ours, "in force", b"8")):
        with pytest.raises(SealError):
            key.open(purpose, bound, sealed)
    with pytest.raises(SealError):
        keys.open("b", wrapped)
    with pytest.raises(SealError):
        TenantKeys(b"0" * 32).open("a", wrapped)
    assert ours.artifact != theirs.artifact
    assert load_root_key(tmp_path / "root") == load_root_key(tmp_path / "root")


def test_etags():
    require_etag(etag_of(7), 7, "etag")
    with pytest.raises(AbortedError):
        require_etag(etag_of(6), 7, "etag")
    with pytest.raises(InvalidArgumentError):
        require_etag("", 7, "etag")


@given(st.sets(st.text(alphabet="abc", min_size=1, max_size=4)), st.integers(1, 5))
def test_pages_give_every_item_once(names, size):
    items, token, seen = sorted(names), "", []
    while True:
        chosen, token = page(items, str, size, token, "things")
        seen += chosen
        if not token:
            break
    assert seen == items
    with pytest.raises(InvalidArgumentError):
        page(items, str, size, "bm90aGluZw==", "things")
    with pytest.raises(InvalidArgumentError):
        page(items, str, -1, "", "things")


def test_masks():
    current = tenant_pb2.Tenant(display_name="a", tenant_uid="u")
    current.config.system_prompt, current.config.weight = "old", 5
    sent = tenant_pb2.Tenant(display_name="b", tenant_uid="forged")
    sent.config.system_prompt = "new"
    fixed = frozenset({"tenant_uid"})
    one = merged(current, sent, ["config.system_prompt"], fixed)
    assert (one.config.system_prompt, one.config.weight, one.display_name) == ("new", 5, "a")
    populated = merged(current, sent, [], fixed)
    assert (populated.display_name, populated.tenant_uid) == ("b", "u")
    whole = merged(current, tenant_pb2.Tenant(), ["*"], fixed)
    assert (whole.display_name, whole.HasField("config"), whole.tenant_uid) == ("", False, "u")
    cleared = merged(current, sent, ["config.weight"], fixed)
    assert not cleared.config.HasField("weight")
    for path in ("nothing", "config.nothing", "display_name.x", "config.models.alias"):
        with pytest.raises(InvalidArgumentError):
            merged(current, sent, [path], fixed)


def test_equal_configs_have_one_digest():
    one = tenant_pb2.TenantConfig(system_prompt="x", default_model="m")
    two = tenant_pb2.TenantConfig.FromString(one.SerializeToString())
    assert config_sha256(one) == config_sha256(two) != config_sha256(tenant_pb2.TenantConfig())
