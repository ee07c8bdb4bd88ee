"""`litespark settings`: writes docs/settings.md from the classes of the config groups."""

from __future__ import annotations

from typing import Any

from litespark.cli.configs import compose, repository


def settings() -> int:
    """Write docs/settings.md, the page of every setting."""
    path = repository() / "docs" / "settings.md"
    path.write_text(page(), encoding="utf-8")
    print(path)
    return 0


def page() -> str:
    """The page, with the defaults of the choices in configs/."""
    from omegaconf import OmegaConf

    from litespark.config.groups import GROUPS, KIND, classes_of
    from litespark.config.page import settings_page

    defaults: dict[tuple[str, str], dict[str, Any]] = {}
    for choices in ([], ["optim=muon", "schedule=wsd", "data=synthetic"]):
        values: Any = OmegaConf.to_container(compose(["~experiment", *choices]))
        defaults.setdefault(("", ""), {key: value for key, value in values.items() if key not in GROUPS})
        for group in GROUPS:
            kind = values[group].get(KIND, next(iter(classes_of(group))))
            defaults.setdefault((group, kind), _flat(values[group], group))
    return settings_page(defaults)


def _flat(values: dict[str, Any], at: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{at}.{key}": value} | (_flat(value, f"{at}.{key}") if isinstance(value, dict) else {})
    return flat
