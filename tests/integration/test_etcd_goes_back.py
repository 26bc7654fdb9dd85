"""Etcd's data of an hour ago is put back under a config service that runs: told, and never taken for the newer one."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb

from tests.fakes.config_service import ConfigServicePlane, RouterFollower

pytestmark = pytest.mark.integration


async def renamed(plane, name, display_name):
    read = await plane.call("GetTenant", admin_pb.GetTenantRequest(name=name))
    read.display_name = display_name
    return await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read))


def display_names(router):
    return {
        resource.tenant.display_name
        for resource in router.resources.values()
        if resource.WhichOneof("resource") == "tenant"
    }


async def put_back(plane, earlier):
    await plane.etcd.kill()
    shutil.rmtree(plane.etcd.data_dir)
    shutil.copytree(earlier, plane.etcd.data_dir)
    await plane.etcd.start()


async def test_an_etcd_that_went_back_is_followed_and_told(tmp_path):
    async with ConfigServicePlane(tmp_path) as plane:
        await plane.with_catalog()
        tenant = await plane.new_tenant("a")
        await plane.etcd.kill()
        shutil.copytree(plane.etcd.data_dir, earlier := tmp_path / "earlier")
        await plane.etcd.start()
        router = RouterFollower(plane.discovery)
        async with asyncio.timeout(20):
            while True:
                try:
                    await renamed(plane, tenant.name, "lost")
                    break
                except Exception:  # noqa: BLE001 - the config service is on its way back to etcd
                    await asyncio.sleep(0.05)
        for number in range(20):
            await renamed(plane, tenant.name, f"lost {number}")
        await router.until(lambda seen: "lost 19" in display_names(seen))
        before = await plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest())
        assert before.complete

        await put_back(plane, earlier)
        # Nobody reads the router's stream: a revision of the new history must not be complete by the old one's.
        async with asyncio.timeout(20):
            while True:
                try:
                    await renamed(plane, tenant.name, "new")
                    break
                except Exception:  # noqa: BLE001 - as above
                    await asyncio.sleep(0.05)
        waited = await plane.call(
            "WaitForPropagation", admin_pb.WaitForPropagationRequest(), timeout_seconds=2
        )
        assert waited.revision < before.revision
        assert [missing.router for missing in waited.missing] == ["r1"]
        assert not waited.complete

        await router.until(lambda seen: display_names(seen) == {"new"})
        waited = await plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest())
        assert waited.complete
        router.close()
    log = (tmp_path / "config.log").read_text()
    assert "ALARM: etcd is at revision" in log
