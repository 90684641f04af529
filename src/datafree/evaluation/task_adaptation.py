"""Few-shot solvers that adapt a network to each test episode, inductive or transductive in BatchNorm's statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.config import AdaptationConfig
from datafree.evaluation.classifiers import Classifier
from datafree.evaluation.few_shot import EpisodesSolver, Solver
from datafree.evaluation.readouts import Reader, Representations, averaged
from datafree.meta.adaptation import adapt, adapt_together, fit_head, linear
from datafree.meta.task_stacks import TaskStack
from datafree.zoo.backbones import Backbone, Normalise


def without_running_statistics(backbone: Backbone) -> Backbone:
    """A copy in evaluation mode whose BatchNorm normalises every batch by the batch's own statistics."""
    backbone = copy.deepcopy(backbone).eval()
    for module in _batch_norms(backbone):
        module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return backbone


def adaptation_solver(backbone: Backbone, normalise: Normalise, rule: AdaptationConfig, *, transductive: bool) -> Solver:
    """A solver that takes gradient steps on the support and then classifies all queries in one pass.

    In every step BatchNorm uses the support's statistics, as in training. The queries are normalised by their own joint statistics
    (transductive, as in the papers), or by those of the support in the adapted network (inductive): running statistics from training do
    not fit an adapted network.
    """
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in backbone.named_parameters()}
    network = without_running_statistics(backbone) if transductive else copy.deepcopy(backbone).eval()
    norms = [] if transductive else _batch_norms(network)
    for norm in norms:
        norm.momentum = 1.0  # a pass in training mode sets the running statistics to those of its batch

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


class StackedAdaptation(EpisodesSolver):
    """``adaptation_solver`` for several episodes in one pass; ``backbone`` is one that ``TaskStack.of`` can stack."""

    def __init__(self, backbone: Backbone, normalise: Normalise, rule: AdaptationConfig, *, transductive: bool) -> None:
        self.stack = TaskStack(copy.deepcopy(backbone).eval().requires_grad_())
        self.normalise, self.rule, self.transductive = normalise, rule, transductive

    def episodes_that_fit(self, images: Tensor) -> int:
        return self.stack.tasks_that_fit(self.normalise(images), 1)

    def __call__(self, support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[1:3]
        target = torch.arange(way, device=support.device).repeat_interleave(shot)
        views, queries = (self.normalise(part.flatten(0, -4)).unflatten(0, (len(part), -1)) for part in (support, query))

        def loss(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, target)

        def classify(network: Callable[[Tensor], Tensor], support: Tensor, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if self.transductive:
                return linear(network(query), (weight, bias)).argmax(1)
            network(support)
            with self.stack.statistics_of_last_pass():
                return linear(network(query), (weight, bias)).argmax(1)

        with torch.enable_grad():
            weights, head = adapt_together(self.stack, views, way, self.rule, loss, (), steps=self.rule.steps, create_graph=False)
        with torch.no_grad():
            predicted = self.stack(classify, weights, views, queries, *head)
        self.stack.forget_statistics()
        return predicted


class StackedTransduction(EpisodesSolver):
    """``transductive_solver`` for several episodes in one pass; ``backbone`` is one that ``TaskStack.of`` can stack."""

    def __init__(self, backbone: Backbone, normalise: Normalise, classify: Classifier, reader: Reader, *, mirrored: bool) -> None:
        self.stack = TaskStack(copy.deepcopy(backbone).eval())
        self.normalise, self.classify, self.reader, self.mirrored = normalise, classify, reader, mirrored

    def episodes_that_fit(self, images: Tensor) -> int:
        return self.stack.tasks_that_fit(self.normalise(images), 1)

    @torch.no_grad()
    def __call__(self, support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[1:3]
        images = torch.cat([support.flatten(1, 2), query], 1)

        def read(images: Tensor) -> Representations:
            views = self.normalise(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            features = self.stack(lambda network, of_episode: network(of_episode), None, views)
            self.stack.forget_statistics()
            return self.reader(features.flatten(0, 1))

        (of_images,) = averaged(read, images, self.mirrored).values()
        of_images = of_images.unflatten(0, images.shape[:2])
        return self.classify(of_images[:, : way * shot].unflatten(1, (way, shot)), of_images[:, way * shot :])


def _batch_norms(backbone: Backbone) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def head_classifier(rule: AdaptationConfig) -> Classifier:
    """As ``adaptation_solver`` if only the head adapts: a classifier of features, for which the running statistics still hold."""

    def classify(support: Tensor, query: Tensor) -> Tensor:
        if support.dim() > 3:  # a batch of episodes
            return torch.stack([classify(*episode) for episode in zip(support, query, strict=True)])
        way, shot = support.shape[:2]
        target = torch.arange(way, device=support.device).repeat_interleave(shot)
        head = fit_head(support.flatten(0, 1), target, way, rule.learning_rate, rule.steps)
        return linear(query, head).argmax(1)

    return classify


def transductive_solver(backbone: Backbone, normalise: Normalise, classify: Classifier, reader: Reader, *, mirrored: bool) -> Solver:
    """A classifier of representations whose BatchNorm statistics are those of the whole episode, support and queries.

    ``backbone`` is one ``without_running_statistics``; ``reader`` has one read-out. With ``mirrored`` the mirror images are a batch of
    their own.
    """

    @torch.no_grad()
    def solve(support: Tensor, query: Tensor) -> Tensor:
        way, shot = support.shape[:2]
        images = torch.cat([support.flatten(0, 1), query])
        (of_images,) = averaged(lambda images: reader(backbone(normalise(images))), images, mirrored).values()
        return classify(of_images[: way * shot].unflatten(0, (way, shot)), of_images[way * shot :])

    return solve
