"""The registry of search algorithms. A new one: a file here, its settings in ``datafree.config.algorithms``, a line in ``ALGORITHMS``.

All are called as ``search(space, pools, config, key, seed, device, checkpoint)``; ``key`` is the algorithm's dotted configuration key, for
error messages. The module of an algorithm is imported only when the algorithm is looked up.
"""

from collections.abc import Callable

from datafree.nas.search_result import SearchResult
from datafree.registry import Registry

ALGORITHMS: Registry[Callable[..., SearchResult]] = Registry(
    {
        "spos": "datafree.nas.spos:search",
        "random": "datafree.nas.random_search:search",
        "darts": "datafree.nas.darts:search",
        "proxyless": "datafree.nas.proxyless:search",
        "zero_cost": "datafree.nas.zero_cost_search:search",
    }
)
