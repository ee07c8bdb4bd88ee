"""From the settings of a model to the model that a rank trains: sharded, on its device, with its weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from litespark.models.adapters import lora
from litespark.models.adapters.config import LoraAdapter
from litespark.models.compilation import CompileMode, compile_model
from litespark.models.init import initialise
from litespark.models.spec import HasResidual, ModelSpec, Recompute, TakesFp8, TakesTensorParallel
from litespark.ops.backend import Ops
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.kept import accumulate_in_place, hold_frozen
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import Precision, activation_dtype
from litespark.training.parallel.sharding import shard_model


@dataclass(frozen=True)
class ModelBuilder:
    """Everything that a model is made of; nothing is allocated before `build`.

    `load_weights` fills the model from elsewhere (a Hugging Face folder); None: the weights are drawn. With an
    `adapter` these are frozen.
    """

    spec: ModelSpec
    ops: Ops
    seed: int
    recompute: Recompute = "none"
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    precision: Precision = "fp32"
    residual_dtype: torch.dtype | None = None
    load_weights: Callable[[nn.Module], None] | None = None
    fp8: Fp8Config | None = None
    compile_mode: CompileMode = "none"
    adapter: LoraAdapter | None = None

    def build(self, device: torch.device, mesh: DeviceMesh | None = None) -> nn.Module:
        """The model on `device`, with the same values however the strategy shards it over the `mesh` of all ranks."""
        with torch.device("meta"):
            model = self.unwritten()
        blocks = self.spec.units(model)
        if self.strategy.shards:
            assert mesh is not None
            if mesh["tensor"].size() > 1:
                assert isinstance(self.spec, TakesTensorParallel)
                self.spec.parallelise(model, mesh["tensor"])
            shard_model(model, blocks, mesh, self.strategy, self.precision)
        model.to_empty(device=device)
        initialise(model, self.spec, self.seed)
        if self.load_weights is not None:
            self.load_weights(model)
        if self.adapter is not None:
            lora.begin(model, self.adapter)
            # FSDP2 shards weights of one dtype
            if not self.strategy.shards and (held := activation_dtype(self.precision, device)) == torch.bfloat16:
                hold_frozen(model, held)
        if self.fp8 is not None:
            assert isinstance(self.spec, TakesFp8)
            self.spec.enable_fp8(model, self.fp8, self.ops.fp8)
        compile_model(model, blocks, self.compile_mode)
        return model

    def unwritten(self) -> nn.Module:
        """The model with weights that nobody has written, where tensors are made now, in one piece and without fp8."""
        model = self.spec.build(self.ops, self.recompute)
        if isinstance(model, HasResidual):
            model.residual_dtype = self.residual_dtype
        if self.strategy.name == "single":
            accumulate_in_place(model)  # DDP listens to gradients
        if self.adapter is not None:
            lora.put_on(model, self.spec, self.adapter)
        return model
