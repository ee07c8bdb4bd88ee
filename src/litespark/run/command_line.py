"""The words of a command, before Hydra reads them: flags that are none, and keys and values that stand apart."""

import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from litespark.config.spelling import advice_for
from litespark.run.checkout import settings_of_files
from litespark.run.targets import ConfigError

_OVERRIDE = re.compile(r"[^-=][^=]*=|=[^=]|~")


def ordered(words: Sequence[str]) -> list[str]:
    """Hydra's flags with their values, then the overrides."""
    overrides = [word for word in words if _OVERRIDE.match(word)]
    flags = [word for word in words if not _OVERRIDE.match(word)]
    parser = get_args_parser()
    parser.allow_abbrev = False
    given, unknown = parser.parse_known_args(flags)
    if given.experimental_rerun:
        raise ConfigError("got --experimental-rerun, which reads a pickle and so may run anything; give the overrides")
    if (wrong := {*unknown, *given.overrides}) and not given.shell_completion:
        check_overrides(words[next(index for index, word in enumerate(words) if word in wrong) :])
    return [*flags, *overrides]


def check_overrides(words: Sequence[str]) -> None:
    """Refuse the first word that is no override, with the override that was meant."""
    for index, word in enumerate(words):
        if _OVERRIDE.match(word):
            continue
        key, _, value = word.lstrip("-").partition("=")
        # `key value`, `--key value`, `key = value`
        rest = [word for word in words[index + 1 : index + 3] if word != "="]
        if not value and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            value = rest[0]
        shown = word if "=" in word or not value else f"{word} {value}"
        raise ConfigError(f"got {shown}, expected key=value; {_meant(key, value)}")


def _meant(key: str, value: str) -> str:
    known = settings_of_files()
    if (underscored := key.replace("-", "_")) in known:
        return f"write {underscored}={value if re.fullmatch(r'[A-Za-z0-9/._,+:-]+', value) else '…'}"
    return advice_for(key, value, known) or "python train.py --cfg job shows all settings"
