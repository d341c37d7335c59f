"""Every error is one line that a person understands, the fitting builtin, and whole after a journey to another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from background_training import errors
from background_training.errors import BackgroundTrainingError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BackgroundTrainingError)]


def example(kind: type[BackgroundTrainingError]) -> BackgroundTrainingError:
    """One with a telling text for each of its arguments."""
    if (
        kind.__init__ in (Exception.__init__, BackgroundTrainingError.__init__)
        or "self" not in inspect.signature(kind.__init__).parameters
        or list(inspect.signature(kind.__init__).parameters) == ["self", "args", "kwargs"]
    ):
        return kind("what happened")
    parameters = [value for name, value in inspect.signature(kind.__init__).parameters.items() if name != "self"]
    return kind(*(31 if value.annotation == "int" else f"<{value.name}>" for value in parameters))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling(kind: type[BackgroundTrainingError]):
    """Class, sentence and fields; it may have happened in a worker."""
    error = example(kind)

    back = pickle.loads(pickle.dumps(error))

    assert type(back) is kind and str(back) == str(error) and back.args == error.args
    assert vars(back) == vars(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_says_all_it_knows_in_one_line(kind: type[BackgroundTrainingError]):
    """But for the short word for counting, every argument is in the sentence."""
    error = example(kind)

    sentence = str(error).removesuffix("\n<details>")  # the worker's traceback, where the error carries one
    assert "\n" not in sentence and sentence
    for argument in error.args:
        assert str(argument) in str(error) or argument == "<reason>"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not BackgroundTrainingError])
def test_an_error_is_the_fitting_builtin_too(kind: type[BackgroundTrainingError]):
    """Code that knows only Python's own errors catches it, and its exit code is one of the documented ones."""
    assert issubclass(kind, (ValueError, OSError, RuntimeError))
    assert kind.exit_code in (1, 2, 3, 4, 5, 6)
    assert kind.__doc__
