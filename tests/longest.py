"""The test files that take longest, the longest first: each worker begins with them (`tests/conftest.py`).

A worker gets whole files, so if one of these began last, the other workers would be idle until it ends. The order
is that of a whole run of `make test`; to renew it, add up the times of a run with `--junit-xml`.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = (
    "cli/test_cli_servers.py",
    "properties/test_machine_backends.py",
    "cli/test_cli.py",
    "faults/test_processes.py",
    "properties/test_mutations.py",
    "conformance/test_postgres.py",
    "web/test_shutdown.py",
    "faults/test_servers.py",
    "conformance/test_redis_cluster.py",
    "properties/test_machine.py",
    "notify/test_demo.py",
    "web/test_mounted.py",
    "web/test_demo.py",
    "conformance/test_redis.py",
    "web/test_web_docs.py",
    "notify_redis/test_setups.py",
    "faults/test_logs.py",
    "compositions/test_scale.py",
    "conformance/test_suites_fail.py",
    "web/browser/test_resume.py",
    "faults/test_network.py",
    "web/test_sse_many.py",
    "test_docs.py",
    "notify_pg/test_outages.py",
    "conformance/test_outages.py",
    "web/browser/test_tabs.py",
    "conformance/test_sqlite.py",
    "conformance/test_shipping.py",
    "compositions/test_lifecycle.py",
    "notify_redis/test_outages.py",
    "web/test_vanish.py",
    "web/test_durable.py",
    "web/test_components.py",
    "test_packaging.py",
    "web/test_frameworks.py",
    "web/browser/test_transports.py",
    "conformance/test_outsiders.py",
    "notify_redis/test_secrets.py",
    "notify_pg/test_start.py",
    "cli/test_demo_page.py",
    "notify_pg/test_bounds.py",
    "properties/test_interleavings.py",
    "notify/test_subscribe.py",
    "notify_redis/test_faults.py",
    "notify_redis/test_order.py",
    "web/test_clients.py",
    "compositions/test_faults.py",
    "web/test_schemathesis.py",
)
