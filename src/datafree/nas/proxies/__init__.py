"""The registry of zero-cost proxies that are measured on networks: scores of untrained networks on noise images. Larger is better.

A new one is a file here with a ``Proxy``, a line in ``PROXIES``, and its name in ``datafree.config.PROXIES``. Its module is imported only
when the proxy is looked up. The costs of an architecture, ``macs`` and ``parameters``, are proxies too; see ``datafree.nas.proxy_scores``.
"""

from datafree.nas.proxy import Proxy
from datafree.registry import Registry

PROXIES: Registry[Proxy] = Registry(
    {
        "synflow": "datafree.nas.proxies.synflow:PROXY",
        "jacob_cov": "datafree.nas.proxies.jacob_cov:PROXY",
        "nwot": "datafree.nas.proxies.nwot:PROXY",
        "zen": "datafree.nas.proxies.zen:PROXY",
        "az_nas": "datafree.nas.proxies.az_nas:PROXY",
        "az_synflow": "datafree.nas.proxies.az_synflow:PROXY",
    }
)
