from __future__ import annotations

from services.config.discovery.snapshot_statements import SIGNER_FILE, open_signer
from services.local import specs
from services.local.layout import open_layout
from services.local.mesh_ports import any_ports
from services.router.settings import RouterSettings


def test_routers_of_the_local_mesh_trust_the_signer_their_config_service_published(tmp_path, monkeypatch):
    with open_layout(tmp_path / "s") as layout, any_ports(["router-1"]) as ports:
        layout.config_dir.mkdir()
        open_signer(b"s" * 32, layout.config_dir)
        for name, value in specs.router(layout, ports, "router-1").env.items():
            monkeypatch.setenv(name, value)
        assert RouterSettings().config_signer_path == layout.config_dir / SIGNER_FILE
        assert RouterSettings().config_signer_path.exists()
