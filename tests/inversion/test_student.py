import pytest
import torch
from torch.nn import functional as F

from datafree.inversion.losses import boundary
from datafree.inversion.student import Student


@pytest.fixture
def images():
    return torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_term_is_the_boundary_loss_of_teacher_and_student(images, teachers):
    student = Student(teachers, 1.0, 32, seed=0)
    for teacher in teachers:
        term = student.term(images, torch.zeros(24, dtype=torch.int64), teacher, torch.Generator())
        expected = boundary(teacher.network(teacher.normalise(255 * images)), student(images, teacher))
        assert torch.allclose(term, expected)
        assert student(images, teacher).shape == (24, len(teacher.classes))


def test_the_student_is_distilled_and_the_teachers_do_not_change(images, teachers, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers[:2]]
    student = Student(teachers[:2], 1.0, 32, seed=0)

    def divergence(teacher):
        predictions = teacher.network(teacher.normalise(255 * images)).softmax(1)
        return F.kl_div(student(images, teacher).log_softmax(1), predictions, reduction="batchmean").item()

    untrained = [divergence(teacher) for teacher in teachers[:2]]
    for _ in range(40):
        for teacher in teachers[:2]:
            student.learn(images, teacher)
    assert all(divergence(teacher) < 0.5 * start for teacher, start in zip(teachers[:2], untrained, strict=True))
    for teacher, state in zip(teachers[:2], before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def test_the_state_is_restored(images, teachers):
    student = Student(teachers, 1.0, 32, seed=0)
    student.learn(images, teachers[0])
    restored = Student(teachers, 1.0, 32, seed=1)
    restored.load_state_dict(student.state_dict())
    for instance in (student, restored):
        instance.learn(images, teachers[1])
    assert torch.equal(next(student.parameters()), next(restored.parameters()))
