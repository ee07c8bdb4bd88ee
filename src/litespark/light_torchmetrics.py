"""Lightning imports torchmetrics whole, with SciPy, torchvision and Transformers where they are installed: seconds.

`import_lightly`, called in every entry, leaves all but the base classes until something of it is asked for.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# what Lightning and we take of it, and the modules that hold it
BASES = {"Metric": "metric", "MetricCollection": "collections"}


def import_lightly() -> None:
    """From now on `import torchmetrics` takes its base classes alone; without effect where it is imported already."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, LightFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LightFinder("torchmetrics", BASES))


class LightFinder(MetaPathFinder, Loader):
    """Finds one package, and runs its `__init__` no earlier than for a name beside `bases`: name -> module of it."""

    def __init__(self, package: str, bases: dict[str, str]) -> None:
        self.package, self.bases = package, bases

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self.package:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self.whole, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(__version__=version(self.package), _logger=logging.getLogger(self.package))
        try:
            import_module(f"{self.package}.utilities")  # which its modules want first
            bases = {name: getattr(import_module(f"{self.package}.{of}"), name) for name, of in self.bases.items()}
        except (ImportError, AttributeError):  # of a version whose modules do not stand alone
            for name in [name for name in sys.modules if name.startswith(f"{self.package}.")]:
                del sys.modules[name]
            self.whole.exec_module(module)
            return

        def ask(name: str) -> Any:
            if name.startswith("__") and name != "__all__":
                raise AttributeError(f"module {self.package!r} has no attribute {name!r}")
            del module.__getattr__
            self.whole.exec_module(module)
            return getattr(module, name)

        module.__dict__.update(bases, __getattr__=ask)
