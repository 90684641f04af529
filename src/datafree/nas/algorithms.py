"""The registry of search algorithms. A new one: a file here, its settings in ``datafree.config.algorithms``, a line in ``ALGORITHMS``.

All are called as ``search(space, pools, config, key, seed, device, checkpoint)``; ``key`` is the algorithm's dotted configuration key, for
error messages.
"""

from collections.abc import Callable

from datafree.nas import darts, proxyless, random_search, spos, zero_cost_search
from datafree.nas.search_result import SearchResult

ALGORITHMS: dict[str, Callable[..., SearchResult]] = {
    "spos": spos.search,
    "random": random_search.search,
    "darts": darts.search,
    "proxyless": proxyless.search,
    "zero_cost": zero_cost_search.search,
}
