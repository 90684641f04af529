import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from datafree.zoo import torchvision_guard
from datafree.zoo.torchvision_guard import import_torchvision

MISSING = RuntimeError("operator torchvision::nms does not exist")


@pytest.fixture
def imports(monkeypatch):
    """Results of consecutive imports (an exception to raise, or a module), and the list of declarations."""
    outcomes, declared = [], []

    def import_module(name):
        assert name == "torchvision"
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            sys.modules["torchvision.half_done"] = ModuleType("torchvision.half_done")
            raise outcome
        return outcome

    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            patch.delitem(sys.modules, name)
        patch.setattr(importlib, "import_module", import_module)
        patch.setattr(torchvision_guard, "_declare_operators", lambda: declared.append(1))
        yield outcomes, declared
        sys.modules.pop("torchvision.half_done", None)


def test_nothing_is_declared_where_torchvision_works(imports):
    outcomes, declared = imports
    module = ModuleType("torchvision")
    outcomes.append(module)
    assert import_torchvision() is module
    assert declared == []


def test_missing_operators_are_declared_and_the_import_is_repeated(imports):
    outcomes, declared = imports
    module = ModuleType("torchvision")
    outcomes.extend([MISSING, module])
    assert import_torchvision() is module
    assert declared == [1]
    assert "torchvision.half_done" not in sys.modules


@pytest.mark.parametrize("error", [RuntimeError("something else"), ModuleNotFoundError("No module named 'torchvision'")])
def test_another_error_is_not_hidden(imports, error):
    outcomes, declared = imports
    outcomes.append(error)
    with pytest.raises(type(error), match=str(error)):
        import_torchvision()
    assert declared == []


def test_a_persistent_error_is_raised(imports):
    outcomes, _ = imports
    outcomes.extend([MISSING, MISSING])
    with pytest.raises(RuntimeError, match="does not exist"):
        import_torchvision()


def test_the_installed_torchvision_is_imported_only_on_request():
    code = (
        "import sys, torch, datafree.zoo.teachers, datafree.zoo.sources; assert 'torchvision' not in sys.modules; "
        "from datafree.zoo.torchvision_guard import import_torchvision as i; a = i(); assert a is i(); "
        "import torchvision; assert a is torchvision; "
        "print(a.models.get_model('shufflenet_v2_x0_5').eval()(torch.zeros(1, 3, 32, 32)).shape[1])"
    )
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert finished.stdout.strip() == "1000"
