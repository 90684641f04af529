"""Shapes and dtypes of the public functions of inversion, distillation and evaluation, checked at every call in the tests.

``SHAPES`` gives, per function or method, a jaxtyping annotation per argument and for what it returns. A letter stands for one size
within a call. ``install`` replaces the functions wherever the package uses them, so that every test checks them along the way.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from beartype.door import die_if_unbearable
from jaxtyping import Bool, Float, Int64, UInt8, jaxtyped
from torch import Tensor

ROOMS = ("inversion", "distillation", "evaluation")
IMAGES, UINT8_IMAGES = Float[Tensor, "b c h w"], UInt8[Tensor, "b c h w"]
LABELS, SCALAR = Int64[Tensor, "b"], Float[Tensor, ""]
LOGITS, CHANNELS = Float[Tensor, "b k"], Float[Tensor, "c"]
EXTRA_TERM = {"images": IMAGES, "labels": LABELS, "return": SCALAR}
SUPPORT_AND_QUERY = {"support": Float[Tensor, "*e way shot d"], "query": Float[Tensor, "*e q d"], "return": Int64[Tensor, "*e q"]}
EPISODES = {"support": UInt8[Tensor, "e way shot c h w"], "query": UInt8[Tensor, "e q c h w"]}
HEADS, REPRESENTATIONS = Float[Tensor, "b t k"], dict[str, Float[Tensor, "b _"]]
READ_OUT = {"features": Float[Tensor, "b d"], "logits": HEADS, "return": Float[Tensor, "b r"]}

ROWS = {"images": Float[Tensor, "r b c s s"], "labels": Int64[Tensor, "r b"], "targets": Float[Tensor, "r b k"] | None}

SHAPES: dict[str, dict[str, Any]] = {
    "inversion.black_box.augmented_view": {"images": IMAGES, "return": IMAGES},
    "inversion.black_box.zero_order_gradient": {"images": IMAGES, "return": tuple[Float[Tensor, "b"], IMAGES]},
    "inversion.contrastive.ContrastiveMemory.term": EXTRA_TERM,
    "inversion.contrastive.ContrastiveMemory.learn": {"images": IMAGES},
    "inversion.contrastive.ContrastiveMemory.memory_features": {"return": Float[Tensor, "n d"]},
    "inversion.contrastive.contrastive_loss": {"views": Float[Tensor, "b d"], "others": Float[Tensor, "n d"], "return": SCALAR},
    "inversion.generator.Generator.forward": {"latent": Float[Tensor, "b z"], "labels": LABELS, "return": Float[Tensor, "b c s s"]},
    "inversion.generator.UpBlock.forward": {"maps": IMAGES, "return": Float[Tensor, "b c2 h2 w2"]},
    "inversion.inner_loop.batch_labels": {"return": Int64[Tensor, "n"]},
    "inversion.inner_loop.balanced_labels": {"return": Int64[Tensor, "n"]},
    "inversion.generator_copies.GeneratorCopies.__call__": {
        "latents": Float[Tensor, "r b z"],
        "labels": Int64[Tensor, "r b"],
        "return": Float[Tensor, "r b c s s"],
    },
    "inversion.generator_copies.GeneratorCopies.state": {},
    "inversion.generator_copies.GeneratorCopies.restore": {},
    "inversion.generator_copies.GeneratorCopies.step": {"loss": SCALAR},
    "inversion.inner_loop.run_inner_loop": {"labels": Int64[Tensor, "r b"] | None},
    "inversion.inner_loop.draw_images": {
        "latents": Float[Tensor, "*r b z"],
        "labels": Int64[Tensor, "*r b"],
        "return": UInt8[Tensor, "*r b c h w"],
    },
    "inversion.label_calibration.calibrated_targets": {"labels": LABELS, "predictions": LOGITS | None, "return": LOGITS},
    "inversion.learnable_set.EpisodeLearner.difficulty": {"images": IMAGES, "return": SCALAR},
    "inversion.learnable_set.EpisodeLearner.learn": {"images": IMAGES},
    "inversion.learnable_set.sample_episode": {"return": tuple[Int64[Tensor, "way"], Int64[Tensor, "way n"]]},
    "inversion.learnable_set.episode_loss_and_accuracy": {"features": Float[Tensor, "way n d"], "return": tuple[SCALAR, float]},
    "inversion.losses.batch_norm_distance": {
        "mean": CHANNELS,
        "variance": CHANNELS,
        "running_mean": CHANNELS,
        "running_variance": CHANNELS,
        "return": SCALAR,
    },
    "inversion.losses.BatchNormMatch.distance": {"return": SCALAR},
    "inversion.losses.within_class_distance": {"images": IMAGES, "labels": LABELS, "return": SCALAR},
    "inversion.losses.diversity_hinge": {"images": IMAGES, "labels": LABELS, "return": SCALAR},
    "inversion.losses.class_places": {"labels": Int64[Tensor, "r b"], "return": tuple[Int64[Tensor, "r k n"], Bool[Tensor, "r k n"]]},
    "inversion.losses.stacked_within_class_distance": {
        "images": Float[Tensor, "r b c h w"],
        "places": Int64[Tensor, "r k n"],
        "there": Bool[Tensor, "r k n"],
        "return": Float[Tensor, "r"],
    },
    "inversion.losses.stacked_total_variation": {"images": Float[Tensor, "r b c h w"], "return": Float[Tensor, "r"]},
    "inversion.losses.soft_cross_entropy": {"logits": LOGITS, "targets": LOGITS, "return": SCALAR},
    "inversion.losses.total_variation": {"images": IMAGES, "return": SCALAR},
    "inversion.losses.squared_norm": {"images": IMAGES, "return": SCALAR},
    "inversion.losses.boundary": {"teacher_logits": LOGITS, "student_logits": LOGITS, "return": SCALAR},
    "inversion.losses.jensen_shannon": {"first": LOGITS, "second": LOGITS, "return": SCALAR},
    "inversion.objective.image_terms": {"images": IMAGES, "labels": LABELS, "targets": LOGITS | None, "return": dict[str, SCALAR]},
    "inversion.objective.prior_terms": {"images": IMAGES, "labels": LABELS, "return": dict[str, SCALAR]},
    "inversion.objective.weighted": {"terms": Mapping[str, Float[Tensor, "*r"]], "return": SCALAR},
    "inversion.objective.as_row": {"terms": Mapping[str, SCALAR]},
    "inversion.pixel_parameters.PixelParameters.place": {"pixels": Float[Tensor, "*r b c h w"]},
    "inversion.pixel_parameters.PixelParameters.images": {"rows": Int64[Tensor, "b"] | None, "return": Float[Tensor, "*r b c h w"]},
    "inversion.pixel_parameters.PixelParameters.step": {"loss": SCALAR, "changeable": Bool[Tensor, "*m"] | None},
    "inversion.pixel_parameters.PixelParameters.state": {"return": dict[str, Tensor]},
    "inversion.pixel_parameters.PixelParameters.restore": {},
    "inversion.pixel_parameters.SavedPixels.finish": {"images": UINT8_IMAGES},
    "inversion.pixels.PixelPool.targets": {"return": LOGITS},
    "inversion.pixel_parameters.PixelParameters.finished": {"return": UInt8[Tensor, "*r b c h w"]},
    "inversion.pixels.CompetitionStudent.term": EXTRA_TERM,
    "inversion.regions.crop": {"images": IMAGES, "return": Float[Tensor, "b c h2 w2"]},
    "inversion.regions.region_mask": {"return": Float[Tensor, "1 1 h w"]},
    "inversion.rows.RowObjective.__call__": ROWS,
    "inversion.stacked_objective.StackedObjective.__call__": ROWS,
    "inversion.losses.statistics_distance": {"inputs": IMAGES, "return": Float[Tensor, ""]},
    "inversion.stacked_objective.query": {
        "images": Float[Tensor, "r b c h w"],
        "move": Int64[Tensor, "r 2"],
        "amounts": Float[Tensor, "r 4 b"] | None,
        "return": tuple[Float[Tensor, "r b k"], Float[Tensor, "r"]],
    },
    "inversion.stacked_objective.rolled": {
        "images": Float[Tensor, "r b c h w"],
        "move": Int64[Tensor, "r 2"],
        "return": Float[Tensor, "r b c h w"],
    },
    "inversion.stacked_objective.cut": {
        "images": Float[Tensor, "r b c h w"],
        "corner": Int64[Tensor, "r 2"],
        "return": Float[Tensor, "r b c h2 w2"],
    },
    "inversion.stacked_objective.picked": {
        "images": Float[Tensor, "r b c h w"],
        "rows": Int64[Tensor, "r h2"],
        "columns": Int64[Tensor, "r w2"],
        "return": Float[Tensor, "r b c h2 w2"],
    },
    "inversion.step_history.StepHistory.add": {"terms": Mapping[str, Float[Tensor, "r"]]},
    "inversion.student.Student.forward": {"images": IMAGES, "return": LOGITS},
    "inversion.student.Student.learn": {"images": IMAGES},
    "inversion.student.Student.term": EXTRA_TERM,
    "distillation.fidelity.student_fidelity": {"index": Int64[Tensor, "n"]},
    "distillation.ensemble.TeacherEnsemble.views": {"images": UINT8_IMAGES, "return": IMAGES},
    "distillation.ensemble.TeacherEnsemble.predict": {"views": IMAGES, "return": Float[Tensor, "b t k"]},
    "distillation.ensemble.TeacherEnsemble.as_images": {"views": IMAGES, "return": IMAGES},
    "distillation.ensemble.TeacherEnsemble.queried_views": {
        "pools": Int64[Tensor, "g"],
        "rows": Int64[Tensor, "g n"],
        "return": tuple[IMAGES, Float[Tensor, "b t k"], Float[Tensor, "b f"] | None],
    },
    "distillation.ensemble.mixup": {"views": IMAGES, "return": IMAGES},
    "distillation.ensemble.mixup_shares": {"views": IMAGES, "return": Float[Tensor, "b 1 1 1"]},
    "distillation.objectives.distillation_terms": {
        "features": Float[Tensor, "b d"],
        "logits": Float[Tensor, "b t k"],
        "predictions": Float[Tensor, "b t k"],
        "relations": Float[Tensor, "b f"] | None,
        "return": dict[str, SCALAR],
    },
    "distillation.objectives.total": {"terms": dict[str, SCALAR], "return": SCALAR},
    "distillation.objectives.zoo_representation": {"probabilities": Float[Tensor, "b t k"], "return": Float[Tensor, "b p"]},
    "distillation.objectives.relational_loss": {"features": Float[Tensor, "b d"], "target": Float[Tensor, "b p"], "return": SCALAR},
    "distillation.objectives.pairwise_cosines": {"vectors": Float[Tensor, "b d"], "return": Float[Tensor, "b b"]},
    "distillation.reinforced_pools.ReinforcedPools.positions": {
        "teachers": Int64[Tensor, "g"],
        "rows": Int64[Tensor, "g n"],
        "return": Int64[Tensor, "b"],
    },
    "distillation.reinforced_pools.ReinforcedPools.batch": {
        "positions": Int64[Tensor, "b"],
        "return": tuple[UINT8_IMAGES, Float[Tensor, "b t k"], Float[Tensor, "b f"] | None],
    },
    "distillation.reinforced_pools.ReinforcedPools.own_batch": {
        "positions": Int64[Tensor, "b"],
        "return": tuple[UINT8_IMAGES, Float[Tensor, "b k"]],
    },
    "distillation.reinforcement.make_views": {"return": UInt8[Tensor, "r n c h w"]},
    "distillation.heads.TeacherHeads.forward": {"features": Float[Tensor, "b d"], "return": Float[Tensor, "b t k"]},
    "distillation.heads.TeacherHeads.of_all": {"features": Float[Tensor, "b d"], "return": Float[Tensor, "b t k"]},
    "distillation.heads.own_logits": {"features": Float[Tensor, "b d"], "teacher": LABELS, "return": LOGITS},
    "distillation.joined_pools.JoinedPools.batch": {"index": Int64[Tensor, "b"]},
    "distillation.joined_pools.JoinedPools.split": {"return": tuple[Int64[Tensor, "n"], Int64[Tensor, "m"]]},
    "distillation.joined_pools.training_batch": {"training": Int64[Tensor, "n"]},
    "distillation.joined_pools.sample_indices": {"index": Int64[Tensor, "n"], "return": Int64[Tensor, "m"]},
    "distillation.losses.divergence": {
        "logits": Float[Tensor, "*b k"],
        "teacher_probabilities": Float[Tensor, "*b k"],
        "return": Float[Tensor, "*b"],
    },
    "distillation.losses.distillation_loss": {
        "logits": Float[Tensor, "*b k"],
        "teacher_probabilities": Float[Tensor, "*b k"],
        "return": SCALAR,
    },
    "distillation.losses.released_divergence": {
        "logits": Float[Tensor, "*b k"],
        "teacher_probabilities": Float[Tensor, "*b k"],
        "return": SCALAR,
    },
    "distillation.prediction_cache.PredictionCache.get": {"return": Float[Tensor, "*a"]},
    "distillation.prediction_cache.digest": {"return": bytes},
    "evaluation.baselines.pixels": {"images": UINT8_IMAGES, "return": dict[str, Float[Tensor, "b d"]]},
    "evaluation.baselines.teachers_together": {},
    "evaluation.readouts.Reader.__call__": {"features": Float[Tensor, "b d"], "return": REPRESENTATIONS},
    "evaluation.readouts.Reader.read": {"features": Float[Tensor, "b d"], "logits": HEADS, "return": REPRESENTATIONS},
    "evaluation.readouts.averaged": {"images": UINT8_IMAGES | UInt8[Tensor, "e n c h w"], "return": dict[str, Float[Tensor, "_ _"]]},
    "evaluation.readouts.mean_of_views": {"first": REPRESENTATIONS, "second": REPRESENTATIONS, "return": REPRESENTATIONS},
    "evaluation.representations.features": {**READ_OUT, "return": Float[Tensor, "b d"]},
    "evaluation.representations.root_features": {**READ_OUT, "return": Float[Tensor, "b d"]},
    "evaluation.representations.probabilities": READ_OUT,
    "evaluation.representations.joined": READ_OUT,
    "evaluation.representations.side_by_side_factors": {"return": Float[Tensor, "r"]},
    "evaluation.representations.join_weights": {"features": Float[Tensor, "b d"], "logits": HEADS},
    "evaluation.classifiers.weighted": {"columns": Float[Tensor, "d"]},
    "evaluation.nearest_centroid.centroids": {
        "support": Float[Tensor, "n d"],
        "labels": Int64[Tensor, "n"],
        "return": tuple[Float[Tensor, "d"], Float[Tensor, "way d"]],
    },
    "evaluation.nearest_centroid.class_means": {
        "values": Float[Tensor, "n d"],
        "labels": Int64[Tensor, "n"],
        "return": Float[Tensor, "way d"],
    },
    "evaluation.neighbours.neighbours": {"recovered": UInt8[Tensor, "n c h w"], "real": UInt8[Tensor, "m c h w"]},
    "evaluation.representations.probabilities_at": {"logits": HEADS, "columns": Int64[Tensor, "p"], "return": Float[Tensor, "b p"]},
    "evaluation.representations.join": {
        "of_features": Float[Tensor, "b d"],
        "of_heads": Float[Tensor, "b p"],
        "return": Float[Tensor, "b r"],
    },
    "evaluation.nearest_centroid.nearest_centroid": SUPPORT_AND_QUERY,
    "evaluation.logistic.logistic": SUPPORT_AND_QUERY,
    "evaluation.logistic.logistic_weights": {"support": Float[Tensor, "*e way shot d"], "return": Float[Tensor, "*e way d"]},
    "evaluation.few_shot.Concatenated.__call__": {"images": UINT8_IMAGES, "return": REPRESENTATIONS},
    "evaluation.few_shot.embed": {"images": UINT8_IMAGES, "return": REPRESENTATIONS},
    "evaluation.few_shot.episode_rows": {"labels": Int64[Tensor, "n"], "return": Int64[Tensor, "e way m"]},
    "evaluation.few_shot.episode_accuracies": {"features": Float[Tensor, "n d"], "rows": Int64[Tensor, "e way m"]},
    "evaluation.few_shot.solver_accuracies": {"images": UINT8_IMAGES, "rows": Int64[Tensor, "e way m"]},
    "evaluation.task_adaptation.StackedAdaptation.__call__": EPISODES,  # the classes int64 [e, q], of which a test takes the logits
    "evaluation.task_adaptation.StackedAdaptation.episodes_that_fit": {"images": UINT8_IMAGES},
    "evaluation.task_adaptation.StackedTransduction.__call__": {**EPISODES, "return": Int64[Tensor, "e q"]},
    "evaluation.task_adaptation.StackedTransduction.episodes_that_fit": {"images": UINT8_IMAGES},
    "evaluation.inversion_quality.teacher_confidence": {"images": UINT8_IMAGES, "labels": LABELS},
    "evaluation.inversion_quality.soft_label_confidence": {"soft_labels": LOGITS, "labels": LABELS},
    "evaluation.inversion_quality.judge_logits": {"images": UINT8_IMAGES, "return": LOGITS},
    "evaluation.inversion_quality.transfer": {"images": UINT8_IMAGES, "labels": LABELS},
    "evaluation.inversion_quality.spread": {"images": UINT8_IMAGES, "labels": LABELS},
}


def functions_with_tensors() -> Iterator[str]:
    """Dotted names of the public functions of the rooms, and of the public methods of their classes, that take or give a tensor."""
    for room in ROOMS:
        for module in _modules(room):
            here = module.__name__.removeprefix("datafree.")
            for name, value in vars(module).items():
                if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                    continue
                if inspect.isfunction(value) and _has_tensors(value):
                    yield f"{here}.{name}"
                elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
                    public = [key for key in vars(value) if not key.startswith("_") or key == "__call__"]
                    yield from (f"{here}.{name}.{key}" for key in public if _has_tensors(vars(value)[key]) and key not in _fields(value))


def _has_tensors(value: Any) -> bool:
    return inspect.isfunction(value) and "Tensor" in str(inspect.signature(value))


def _fields(kind: type) -> Collection[str]:
    return getattr(kind, "__dataclass_fields__", ())  # a function as the default of a field is no method


def install() -> None:
    """Check ``SHAPES`` at every call from now on; call it before a test module imports anything of the package."""
    for room in ROOMS:
        _modules(room)
    for dotted, hints in SHAPES.items():
        owner, name = _owner(dotted)
        plain = getattr(owner, name)
        checked = _checked(plain, hints)
        for module in [module for key, module in sys.modules.items() if key.startswith("datafree")]:
            for other, value in list(vars(module).items()):
                if value is plain:
                    setattr(module, other, checked)
        setattr(owner, name, checked)


def _checked(function: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    unknown = set(hints) - set(signature.parameters) - {"return"}
    assert not unknown, f"{function.__qualname__} has no {unknown}"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        with jaxtyped("context"):
            for name, value in given.arguments.items():
                if name in hints:
                    die_if_unbearable(value, hints[name])
            result = function(*args, **kwargs)
            if "return" in hints:
                die_if_unbearable(result, hints["return"])
            return result

    return call


def _modules(room: str) -> list[Any]:
    package = importlib.import_module(f"datafree.{room}")
    return [importlib.import_module(f"datafree.{room}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]


def _owner(dotted: str) -> tuple[Any, str]:
    *path, name = f"datafree.{dotted}".split(".")
    if path[-1][0].isupper():
        return getattr(importlib.import_module(".".join(path[:-1])), path[-1]), name
    return importlib.import_module(".".join(path)), name
