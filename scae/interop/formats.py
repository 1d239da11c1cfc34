"""The formats of other libraries by name: `write(linear, folder, card)` and `read(folder)`."""

from types import ModuleType

from scae.interop import saelens, sparsify

FORMATS: dict[str, ModuleType] = {"saelens": saelens, "sparsify": sparsify}
