"""Learners that adapt to a new task, and BatchNorm by the statistics of the task itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from datafree.config import AdaptationConfig
from datafree.evaluation.classifiers import Classifier
from datafree.evaluation.few_shot import Solver
from datafree.meta.adaptation import adapt, fit_head, linear
from datafree.zoo.backbones import Backbone, Normalise


def batch_statistics(backbone: Backbone) -> Backbone:
    """A copy in evaluation mode whose BatchNorm knows no running statistics: it normalises every batch by its own."""
    backbone = copy.deepcopy(backbone).eval()
    for module in _batch_norms(backbone):
        module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return backbone


def adapting_solver(backbone: Backbone, normalise: Normalise, rule: AdaptationConfig, *, transductive: bool) -> Solver:
    """Gradient steps on the support, each normalised by the support's own statistics as in training, then the queries in one pass.

    The queries are normalised together by theirs (transductive, as in the papers), or by the statistics that the support has in the
    adapted network (inductive): running statistics of the training belong to no network that adapts.
    """
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in backbone.named_parameters()}
    network = batch_statistics(backbone) if transductive else copy.deepcopy(backbone).eval()
    norms = [] if transductive else _batch_norms(network)
    for norm in norms:
        norm.momentum = 1.0  # a pass in training mode leaves its own statistics as the running ones

    def solve(support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[:2]
        target = torch.arange(way, device=support.device).repeat_interleave(shot)
        for norm in norms:
            norm.train()
        with torch.enable_grad():
            views = normalise(support.flatten(0, 1))
            adapted = adapt(network, weights, views, target, way, rule, steps=rule.steps, create_graph=False)
        with torch.no_grad():
            if norms:
                adapted.logits(network, views)
            for norm in norms:
                norm.eval()
            return adapted.logits(network, normalise(query)).argmax(1)

    return solve


def _batch_norms(backbone: Backbone) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def adapting_head(rule: AdaptationConfig) -> Classifier:
    """As ``adapting_solver`` where the head alone adapts: a classifier of features, which running statistics still fit."""

    def classify(support: Tensor, query: Tensor) -> Tensor:
        if support.dim() > 3:  # one episode after the other
            return torch.stack([classify(*episode) for episode in zip(support, query, strict=True)])
        way, shot = support.shape[:2]
        target = torch.arange(way, device=support.device).repeat_interleave(shot)
        head = fit_head(support.flatten(0, 1), target, way, rule.learning_rate, rule.steps)
        return linear(query, head).argmax(1)

    return classify


def transductive_solver(backbone: Backbone, normalise: Normalise, classify: Classifier) -> Solver:
    """A classifier of features; ``backbone`` (``batch_statistics``) normalises all images of an episode together, support and queries."""

    @torch.no_grad()
    def solve(support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[:2]
        features = backbone(normalise(torch.cat([support.flatten(0, 1), query]))).float()
        return classify(features[: way * shot].unflatten(0, (way, shot)), features[way * shot :])

    return solve
