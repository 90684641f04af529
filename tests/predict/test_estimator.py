import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

import datafree
from datafree.errors import UserError
from datafree.predict.classifier import fit
from datafree.predict.estimator import FewShotEstimator, NotFitted, load_classifier
from datafree.predict.files import write_learner


@pytest.fixture
def data(make_images):
    images, labels = make_images(3, 6, 16, seed=4)
    return images, np.array(["cat", "ant", "bee"])[labels.numpy()]


def test_it_predicts_what_the_classifier_predicts(learner, data):
    images, labels = data
    estimator = FewShotEstimator(learner).fit(images[:9], labels[:9])
    order = np.array(["ant", "bee", "cat"])
    direct = fit(learner.represent(images[:9]), torch.from_numpy(np.searchsorted(order, labels[:9])), 3, learner.negatives)
    logits = direct.logits(learner.represent(images))
    assert estimator.classes_.tolist() == order.tolist()
    assert np.array_equal(estimator.decision_function(images), logits.numpy())
    assert np.array_equal(estimator.predict(images), order[logits.argmax(1).numpy()])
    np.testing.assert_allclose(estimator.predict_proba(images), logits.double().softmax(1).numpy())
    np.testing.assert_allclose(estimator.predict_proba(images).sum(1), 1)
    assert estimator.score(images, labels) == (estimator.predict(images) == labels).mean()
    assert estimator.score(images[:9], labels[:9]) > 0.5


@pytest.mark.parametrize("labels", [[7, 3, 7, 3], [True, False, True, False], torch.tensor([1, 0, 1, 0]), ["x", "猫", "x", "猫"]], ids=str)
def test_labels_may_be_of_any_kind(learner, data, labels):
    estimator = FewShotEstimator(learner).fit(data[0][:4], labels)
    assert set(estimator.predict(data[0])) <= set(np.unique(np.asarray(labels)))


def test_images_unlike_all_classes_get_the_label_unknown(learner, data):
    images, labels = data
    estimator = FewShotEstimator(learner, reject=0.3, unknown=-1).fit(images, labels)
    rejected = estimator.similarity(images) < estimator.classifier_.threshold
    predicted = estimator.predict(images)
    assert rejected.any()
    assert [value == -1 for value in predicted] == rejected.tolist()
    assert set(FewShotEstimator(learner, reject=0, unknown=-1).fit(images, labels).predict(images)) <= set(labels)


def test_classes_and_images_that_are_added_give_what_learning_all_at_once_gives(learner, data):
    images, labels = data
    whole = FewShotEstimator(learner).fit(images, labels)
    order = np.argsort(labels == "cat", kind="stable")  # the class `cat` comes last
    added = FewShotEstimator(learner)
    for part in np.split(order, [6, 12]):
        if len(set(labels[part])) < 2 and not hasattr(added, "classes_"):
            with pytest.raises(UserError, match="expected at least 2 classes, got 1"):
                added.partial_fit(images[part], labels[part])
            part = order[:12]
        added.partial_fit(images[part], labels[part], classes=np.unique(labels))
    assert added.classes_.tolist() == whole.classes_.tolist()
    np.testing.assert_allclose(added.decision_function(images), whole.decision_function(images), atol=1e-4)


def test_it_follows_the_conventions_of_scikit_learn(learner, data):
    images, labels = data
    estimator = FewShotEstimator(learner, reject=0.1, unknown="?")
    assert set(estimator.get_params()) == {"learner", "reject", "unknown"}
    copied = clone(estimator)
    assert (copied.reject, copied.unknown) == (0.1, "?")
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    check_is_fitted(estimator.fit(images, labels))
    assert np.array_equal(copied.fit(images, labels).predict_proba(images), estimator.predict_proba(images))
    assert estimator.set_params(reject=0.0, unknown=None) is estimator
    with pytest.raises(ValueError, match="nothing: expected one of learner, reject, unknown"):
        estimator.set_params(nothing=1)
    pipeline = make_pipeline(FunctionTransformer(lambda images: images.flip(-1)), clone(estimator)).fit(images, labels)
    expected = clone(estimator).fit(images.flip(-1), labels).predict_proba(images.flip(-1))
    np.testing.assert_allclose(pipeline.predict_proba(images), expected, atol=1e-6)
    assert pipeline.score(images, labels) > 0.5
    assert np.array_equal(pickle.loads(pickle.dumps(estimator)).predict(images), estimator.predict(images))


def test_a_prediction_without_classes_is_refused_in_one_line(learner, data):
    for call in ("predict", "predict_proba", "decision_function", "similarity"):
        with pytest.raises(NotFitted, match="call fit with images and labels first"):
            getattr(FewShotEstimator(learner), call)(data[0])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a"] * 4, {}, "labels: expected at least 2 classes, got 1"),
        (["a", "b"], {}, r"labels: expected one per image, 4; got the shape \[2\]"),
        ([["a"], ["b"], ["a"], ["b"]], {}, r"labels: expected one per image, 4; got the shape \[4, 1\]"),
        ([1, None, 1, 2], {}, "labels: expected all strings or all numbers, none of them missing"),
        ([1, "1", 1, "1"], {}, "labels: expected all strings or all numbers"),
        ([1.0, float("nan"), 1.0, 2.0], {}, "labels: expected all strings or all numbers, none of them missing"),
        ([[1], [1, 2], [1], [1]], {}, "labels: expected one per image"),
        (["a", "b", "a", "b"], {"reject": "much"}, "reject: got much; allowed"),
        (["a", "b", "a", "b"], {"reject": 1.0}, "reject: got 1.0; allowed: at least 0 and less than 1"),
    ],
)
def test_wrong_labels_and_options_give_one_line(learner, data, labels, options, message):
    with pytest.raises(UserError, match=message):
        FewShotEstimator(learner, **options).fit(data[0][:4], labels)


def test_a_failed_fit_keeps_the_classes(learner, data):
    images, labels = data
    estimator = FewShotEstimator(learner).fit(images, labels)
    before = estimator.predict_proba(images)
    with pytest.raises(UserError):
        estimator.partial_fit(images[:2], ["new"])
    assert np.array_equal(estimator.predict_proba(images), before)


def test_labels_of_another_kind_are_refused(learner, data):
    images, _ = data
    estimator = FewShotEstimator(learner).fit(images[:4], [1, 2, 1, 2])
    for call in (estimator.partial_fit, estimator.score):
        with pytest.raises(UserError, match="labels: expected numbers, like those of the classes"):
            call(images[:2], ["a", "b"])
    assert estimator.classes_.tolist() == [1, 2]


def test_a_changed_share_of_rejection_holds_for_the_learned_classes(learner, data):
    images, labels = data
    estimator = FewShotEstimator(learner, unknown="?").fit(images, labels)
    before = estimator.classifier_.threshold
    estimator.set_params(reject=0.5)
    assert estimator.classifier_.threshold == FewShotEstimator(learner, reject=0.5).fit(images, labels).classifier_.threshold != before
    with pytest.raises(ValueError, match="foo"):
        estimator.set_params(reject=0.1, foo=1)
    assert estimator.reject == 0.5
    assert not hasattr(estimator.set_params(learner=learner), "classes_")


@pytest.mark.parametrize("images", [None, (image for image in ()), 3])
def test_images_of_another_form_give_one_line(learner, images):
    with pytest.raises(UserError, match="images: expected a tensor"):
        FewShotEstimator(learner).fit(images, ["a"])


@pytest.mark.parametrize(("name", "message"), [("none of these", "choose another name"), ("a\nb", "no control characters")])
def test_a_class_name_that_could_be_mistaken_is_not_saved(learner, data, tmp_path, name, message):
    estimator = FewShotEstimator(learner).fit(data[0][:4], ["a", name, "a", name])
    with pytest.raises(UserError, match=message):
        estimator.save(tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_saved_classifier_predicts_the_same(learner, data, tmp_path):
    images, labels = data
    estimator = FewShotEstimator(learner).fit(images, labels)
    estimator.save(tmp_path / "c.safetensors")
    for read in (load_classifier(tmp_path / "c.safetensors"), datafree.load_classifier(str(tmp_path / "c.safetensors"))):
        assert np.array_equal(read.predict_proba(images), estimator.predict_proba(images))
        assert np.array_equal(read.predict(images), estimator.predict(images))
        assert np.array_equal(read.partial_fit(images[:2], ["new", "new"]).classes_, ["ant", "bee", "cat", "new"])
    with pytest.raises(UserError, match="c.pt: expected a name that ends in .safetensors"):
        estimator.save(tmp_path / "c.pt")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(UserError, match=r"cannot be written \(Is a directory\)"):
        estimator.save(tmp_path / "taken.safetensors")
    with pytest.raises(NotFitted):
        FewShotEstimator(learner).save(tmp_path / "d.safetensors")


def test_a_learner_may_be_given_by_the_path_of_its_file(learner, data, tmp_path):
    write_learner(tmp_path / "l.safetensors", learner)
    images, labels = data
    expected = FewShotEstimator(learner).fit(images, labels).predict_proba(images)
    for estimator in (FewShotEstimator(tmp_path / "l.safetensors"), datafree.load_learner(tmp_path / "l.safetensors")):
        assert np.array_equal(estimator.fit(images, labels).predict_proba(images), expected)
    assert repr(FewShotEstimator("l.safetensors")) == "FewShotEstimator('l.safetensors', reject=0.05, unknown=None)"
    assert repr(FewShotEstimator(learner)).startswith("FewShotEstimator('distillation'")
