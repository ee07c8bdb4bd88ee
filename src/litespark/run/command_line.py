"""The words of a command, before Hydra reads them: flags that are none, and keys and values that stand apart."""

from __future__ import annotations

import re
import sys
from argparse import Action
from collections.abc import Iterator, Sequence

import yaml

from litespark.config.spelling import advice_for
from litespark.run.checkout import repository
from litespark.run.targets import ConfigError

# it reads a pickle, which calls what it likes
_REFUSED = "--experimental-rerun"


def check_command_line() -> None:
    """Check the words of `train.py` and put Hydra's flags before the overrides; or end with a message."""
    try:
        sys.argv[1:] = ordered(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def ordered(words: Sequence[str]) -> list[str]:
    """Hydra's flags with their values, then the overrides.

    Raises:
        ConfigError: a flag that Hydra does not have, or an override without a =.
    """
    from hydra._internal.utils import get_args_parser

    actions = get_args_parser()._option_string_actions
    flags: list[str] = []
    overrides: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        action = _flag(word, actions)
        if action is None:
            overrides.append(word)
            continue
        flags.append(word)
        takes_value = action.nargs is None or (action.choices is not None and bool(left) and left[0] in action.choices)
        if takes_value and left and "=" not in word:
            flags.append(left.pop(0))
    if any(word.split("=")[0] == _REFUSED for word in flags):
        raise ConfigError(f"got {_REFUSED}, which reads a pickle and so may run anything; give the overrides instead")
    if not {"--shell-completion", "-sc"} & set(flags):
        check_overrides(overrides)
    return [*flags, *overrides]


def check_overrides(words: Sequence[str]) -> None:
    """Refuse a word that is no override, with the override that was meant.

    Raises:
        ConfigError: a flag, or a key without a value.
    """
    for index, word in enumerate(words):
        is_flag = word.startswith("-")
        if not is_flag and ("=" in word.lstrip("=") or word.startswith("~")):
            continue
        key, _, value = word.lstrip("-").partition("=")
        # `key value`, `--key value`, `key = value`, `key= value`
        rest = [each for each in words[index + 1 : index + 3] if each != "="]
        if not value and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            value = rest[0].lstrip("=")
        shown = word if "=" in word or not value else f"{word} {value}"
        raise ConfigError(f"got {shown}, expected key=value; {_meant(key, value)}")


def _meant(key: str, value: str) -> str:
    known = list(_known())
    underscored = key.replace("-", "_")
    if underscored in known:
        quoted = value if re.fullmatch(r"[A-Za-z0-9/._,+:-]+", value) else "…"
        return f"write {underscored}={quoted}"
    return advice_for(key, value, known) or "python train.py --cfg job shows all settings"


def _known() -> Iterator[str]:
    """Settings and groups, read off the files of the configs."""
    configs = repository() / "configs"
    yield from (key for key in yaml.safe_load((configs / "train.yaml").read_text()) if key != "defaults")
    for folder in sorted(each for each in configs.iterdir() if each.is_dir()):
        yield folder.name
        if folder.name in ("experiment", "debug", "sweep", "hydra"):
            continue
        for path in folder.glob("*.yaml"):
            keys = yaml.safe_load(path.read_text()).keys() - {"defaults"}
            yield from (f"{folder.name}.{key}" for key in keys)


def _flag(word: str, actions: dict[str, Action]) -> Action | None:
    """The flag of Hydra that `word` is, also abbreviated as argparse allows."""
    name = word.split("=")[0]
    if not word.startswith("-"):
        return None
    if name in actions:
        return actions[name]
    longer = [each for each in actions if name.startswith("--") and each.startswith(name)]
    return actions[longer[0]] if len(longer) == 1 else None
