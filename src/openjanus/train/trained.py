"""What a run of a Janus changes: the trained weights, their average and their optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from openjanus.data.id_cache import TensorsDigest, tensors_hash
from openjanus.model.janus import JanusModel
from openjanus.train.checkpoint import SHARDS, SavedShards, Shards
from openjanus.train.config import JanusTrainConfig
from openjanus.train.ema import Ema
from openjanus.train.lora import add_lora
from openjanus.train.optim import Optimizers
from openjanus.train.parallel import ALONE, World
from openjanus.train.sharding import free_gathered, whole_of
from openjanus.train.stages import freeze_for_stage

T = TypeVar("T")


def hash_frozen(model: JanusModel, world: World = ALONE) -> str:
    """SHA-256 of the parameters that are not trained; all processes must call this.

    Args:
        model: Frozen; whole, or in parts, which are put together one tensor at a time.
        world: All processes.
    """
    digest = TensorsDigest()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            whole = whole_of(parameter.detach())
            if world.is_main:
                digest.update(name, whole)
    return world.gather(digest.hexdigest())[0]


def mark_trained(model: JanusModel, config: JanusTrainConfig) -> None:
    """Put in a run's adapters, if it has any, and say which parameters require gradients.

    Raises:
        ImportError, ValueError: As ``add_lora``.
    """
    if config.lora is not None:
        add_lora(model, config.lora, seed=config.run.seed)
    freeze_for_stage(
        model,
        config.stage,
        train_gen_embed=config.train_gen_embed,
        beside=None if config.lora is None else config.lora.whole_doors,
    )


class Trained:
    """The trained part of a model, by name: what a checkpoint holds of it.

    What is frozen is not saved: it comes from where the run started, and a hash says whether that
    is still the same.

    Args:
        model: Frozen as its stage says, and in parts where there are several processes.
        config: The run.
        frozen_hash: ``hash_frozen`` of the model, as the run begins.
    """

    def __init__(self, model: JanusModel, config: JanusTrainConfig, *, frozen_hash: str) -> None:
        self.model = model
        self.frozen_hash = frozen_hash
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizers = Optimizers(self.parameters.items(), config.optim)
        self.ema: Ema | None = None
        if config.ema_decay is not None:
            self.ema = Ema(self.parameters.items(), config.ema_decay)

    @contextmanager
    def shipped(self, root: nn.Module) -> Iterator[None]:
        """The model as it is shipped: within this, it has the average of its weights, if any.

        The weights come back to the bit. All processes must do this, each with its part.

        Args:
            root: What is sharded; the model is in it.
        """
        if self.ema is None:
            yield
            return
        free_gathered(root)  # or a forward would go on with what it had gathered
        self.ema.swap()
        try:
            yield
        finally:
            free_gathered(root)
            self.ema.swap()

    def _weights(self) -> dict[str, Tensor]:
        found = {f"model/{name}": p.detach() for name, p in self.parameters.items()}
        found |= {f"buffer/{name}": buffer for name, buffer in self.model.named_buffers()}
        if self.ema is not None:
            found |= {f"ema/{name}": tensor for name, tensor in self.ema.tensors.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizers as `Shards`, and what they rest on."""
        optim = {f"optim/{name}": t for name, t in self.optimizers.named_state().items()}
        return {
            SHARDS: Shards(self._weights() | optim),
            "optim_numbers": self.optimizers.named_numbers(),
            "frozen_hash": self.frozen_hash,
            "ema_steps": None if self.ema is None else self.ema.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it, whatever the number of processes that saved it; all must call this.

        Raises:
            ValueError: The run started from other weights, or trained other parts.
        """
        if "whole" in state:
            state = state | self._from_whole(state["whole"])
        if state["frozen_hash"] != self.frozen_hash:
            raise ValueError(
                "the checkpoint was trained on other frozen weights than this run starts from: "
                "resume with the init, vq and und_encoder that the run was started with"
            )
        shards: Shards | SavedShards = state[SHARDS]
        shapes = shards.shapes()
        optim = _of_optimizers(shapes)
        weights = self._weights()
        odd = sorted(weights.keys() ^ {name for name in shapes if not name.startswith("optim/")})
        if odd:
            raise ValueError(
                f"the checkpoint and this run do not train the same ({len(odd)} differences, the "
                f"first {odd[0]}): resume with the stage and ema_decay of the run's start"
            )
        # A checkpoint from before they were kept has none: PyTorch's own optimizers have none.
        numbers = state.get("optim_numbers", {})
        room = self.optimizers.make_state(optim, _of_optimizers(shards.dtypes()), numbers)
        shards.read_into(weights | {f"optim/{name}": tensor for name, tensor in room.items()})
        self.optimizers.take_weights()
        if self.ema is not None:
            self.ema.steps = state["ema_steps"]

    def _from_whole(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Formats 1 and 2: one process saved everything, and its optimizers by number."""
        model: dict[str, Tensor] = whole["model"]
        frozen = {n: model[n] for n, p in self.model.named_parameters() if not p.requires_grad}
        tensors = {f"model/{name}": model[name] for name in self.parameters}
        tensors |= {f"buffer/{name}": model[name] for name, _ in self.model.named_buffers()}
        optim = self.optimizers.by_name(whole["optimizers"])
        tensors |= {f"optim/{name}": tensor for name, tensor in optim.items()}
        return {SHARDS: Shards(tensors), "frozen_hash": tensors_hash(frozen)}


def _of_optimizers(named: Mapping[str, T]) -> dict[str, T]:
    """Of what is known of the tensors of a checkpoint, what is the optimizers'; by their names."""
    prefix = "optim/"
    return {n.removeprefix(prefix): it for n, it in named.items() if n.startswith(prefix)}
