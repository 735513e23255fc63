"""A model whose weights may be packed refuses what these do not bear, before it is half done."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

from openjanus.model.joined import JoinedQuantized


class Packable(nn.Module):
    """A module that says whether it is packed."""

    @property
    def is_packed(self) -> bool:
        """Whether any weights are laid out for this CPU, as ``pack_model`` does."""
        return any(weight.is_mkldnn for weight in self.parameters()) or any(
            isinstance(module, JoinedQuantized) for module in self.modules()
        )

    def _refuse_if_packed(self, fault: str) -> None:
        """Before anything is touched: a layer refuses when it is come to."""
        if self.is_packed:
            raise RuntimeError(f"packed weights {fault}: load the model again, unpacked")

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._refuse_if_packed("stay on this CPU and in their dtype")
        return super()._apply(fn, recurse)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module's; a packed model takes no other weights."""
        self._refuse_if_packed("take no others")
        return super().load_state_dict(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As every object's; a packed model is neither copied nor pickled."""
        self._refuse_if_packed("are neither copied nor pickled")
        return super().__reduce_ex__(protocol)
