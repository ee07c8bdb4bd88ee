"""Looking up backends by name, and what importing the ops room costs."""

import copy
import functools
import importlib
import subprocess
import sys

import pytest

from litespark.ops.backend import BACKENDS, Backend, OpsConfig, resolve


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, known in BACKENDS.items() for name in known])
def test_every_backend_resolves_to_the_one_asked_for_and_can_be_copied_with_a_model(op, name):
    function = getattr(resolve(OpsConfig(**{op: name})), op)
    module, attribute = BACKENDS[op][name].function.split(":")
    assert function is getattr(importlib.import_module(module), attribute)
    copied = copy.deepcopy(function)
    # the pieces of fp8 are an object, which has no state
    assert copied is function or isinstance(function, functools.partial) or vars(copied) == {}


@pytest.mark.parametrize("op", BACKENDS)
def test_an_unknown_backend_is_refused_with_op_name_and_those_known(op):
    with pytest.raises(ValueError, match=rf"ops\.{op}: got 'warp', expected one of those known for {op}: .*reference"):
        OpsConfig(**{op: "warp"})


def test_a_backend_whose_library_is_missing_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setitem(BACKENDS["rms_norm"], "absent", Backend("litespark.ops.rms_norm.absent:rms_norm"))
    with pytest.raises(ValueError, match=r"ops\.rms_norm=absent cannot be used here: .*absent.*reference"):
        resolve(OpsConfig(rms_norm="absent"))


def test_ops_import_without_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from litespark.ops import OpsConfig, resolve\n"
        "resolve(OpsConfig(attention='sdpa'))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
