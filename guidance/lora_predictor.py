# SPDX-License-Identifier: Apache-2.0
"""VSD's model of a run's renders on a Stable Diffusion: its U-Net with a LoRA and a camera, trained beside the scene.

| symbol | name | shape |
|---|---|---|
| x | clean latents of the rendered views | [B,C,h,w] |
| q(x_t, t, c) | the noise that the U-Net with the LoRA predicts for a camera c | [B,C,h,w] |
| c | camera-to-world matrix; zeros: no camera | [B,16] |

Training (ProlificDreamer): one AdamW step on |q(x_t', t', c) - n'|^2 for each step of the scene, t' uniform in
[0, T), fresh n', c zeros with probability CAMERA_DROPOUT. The text is the prompt without view words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guidance import sd_step
from guidance.predictor import Cameras
from utils.general_utils import first_not_finite
from utils.wording import counted

if TYPE_CHECKING:
    from guidance.sd_utils import StableDiffusion

logger = logging.getLogger(__name__)
NAME = "renders"  # of the adapter
ATTENTION_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 4
LEARNING_RATE = 1e-4
CAMERA_DROPOUT = 0.1
MOST_HALVINGS = 16
"""Of the loss; float16 holds 2^-24."""


class LoRAPredictor:
    """guidance.predictor.Predictor that shares the prior's weights: outside its calls the LoRA is off.

    The camera's embedding begins at zero, as the LoRA does, so that q begins as the prior without view words.
    """

    def __init__(self, prior: StableDiffusion, text: Tensor, seed: int) -> None:
        """text [L,D]: the prompt without view words.  seed: of the first weights and of what training draws."""
        from peft import LoraConfig

        self.prior, self.text, self.seed, unet = prior, text, seed, prior.unet
        if NAME not in getattr(unet, "peft_config", {}):
            unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION_LAYERS), NAME)
        self.lora = {name: layer for name, layer in unet.named_parameters() if f".{NAME}." in name}
        for layer in self.lora.values():
            layer.data = layer.data.float()
        width = unet.time_embedding.linear_2.out_features
        self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width)).to(prior.device)
        self.generator = torch.Generator(prior.device)
        self.load_state_dict({})

    def _begin(self) -> None:
        """First weights, the same on every device: those that the layers' libraries draw, with the second factors 0."""
        generator = torch.Generator().manual_seed(self.seed)
        for name, weight in self.weights.items():
            weight.data.zero_()
            if weight.ndim == 2 and not name.startswith("camera.2.") and f".lora_B.{NAME}." not in name:
                drawn = torch.empty(weight.shape)
                weight.data.copy_(nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator))
        self.generator.manual_seed(self.seed)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by name, in float32."""
        return self.lora | {f"camera.{name}": weight for name, weight in self.camera.named_parameters()}

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, cameras: Cameras | None) -> Tensor:
        """q for x_t [B,C,h,w] at timesteps t [B]."""
        matrices = x_t.new_zeros(len(x_t), 16) if cameras is None else _matrices(cameras, x_t)
        with self._adapted():
            return torch.cat(self.prior.of_unet.run(self._predict, x_t, t, matrices))

    def observe(self, x: Tensor, cameras: Cameras) -> None:
        """One training step on all views' latents [B,C,h,w].

        Skipped, counted and named with a gradient that is not finite, as half precision may give one; those after it
        have half the scale, as torch.amp.GradScaler's.
        """
        draws: dict[str, Any] = {"generator": self.generator, "device": x.device}
        t = torch.randint(len(self.prior.alphas_cumprod), (len(x),), **draws)
        noise = torch.randn(x.shape, **draws)
        is_kept = torch.rand(len(x), 1, **draws) >= CAMERA_DROPOUT
        x_t = sd_step.add_noise(x, noise, self.prior.alphas_cumprod[t])
        examples, at_once = (x_t, t, _matrices(cameras, x) * is_kept, noise), self.prior.of_unet.most or len(x)
        with torch.enable_grad(), self._adapted():
            for *inputs, target in zip(*(values.split(at_once) for values in examples), strict=True):
                # A sum, not a mean, whose gradients half precision could not hold; AdamW does not see that scale.
                (self.scale * (self._predict(*inputs) - target).square().sum()).backward()
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        bad = first_not_finite(gradients)
        if bad is None:
            if (scale := self.scale) != 1:
                for gradient in gradients.values():
                    gradient /= scale
            self.optimizer.step()
        else:
            self._skip(bad)
        self.optimizer.zero_grad()

    @property
    def scale(self) -> float:
        """Of the loss while its gradient is computed: a power of two, halved by each skipped step."""
        return 0.5 ** min(self.skipped, MOST_HALVINGS)

    def _skip(self, name: str) -> None:
        """Counts a step that trains nothing, and reports the first, the tenth, the hundredth and so on."""
        self.skipped += 1
        if str(self.skipped).strip("0") == "1":
            logger.warning(
                "%s of the model of the run's renders skipped, the last because the gradient of %s is not finite; if "
                "there are many, use --precision bfloat16 or float32",
                counted(self.skipped, "training step"),
                name,
            )

    def _predict(self, x_t: Tensor, t: Tensor, matrices: Tensor) -> Tensor:
        prior, text = self.prior, self.text.expand(len(x_t), -1, -1)
        embedded = self.camera(matrices)
        hook = prior.unet.time_embedding.register_forward_hook(lambda *call: call[-1] + embedded.to(call[-1].dtype))
        try:
            with prior.execution.attention():
                output = prior.unet(x_t.to(prior.dtype), t, encoder_hidden_states=text.to(prior.dtype)).sample
        finally:
            hook.remove()
        return prior.eps_of(output, x_t, t)

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        self.prior.unet.enable_adapters()
        try:
            yield
        finally:
            self.prior.unet.disable_adapters()

    def state_dict(self) -> dict[str, Any]:
        """Weights, AdamW's moments, the generator and the number of skipped steps."""
        optimizer = self.optimizer.state_dict()["state"]
        moments = {name: optimizer[k] for k, name in enumerate(self.weights) if k in optimizer}
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        state = {"weights": weights, "moments": moments, "generator": self.generator.get_state()}
        return {**state, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; an empty one starts again."""
        self._begin()
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=LEARNING_RATE)
        self.optimizer.zero_grad()
        self.prior.unet.disable_adapters()
        self.skipped = state.get("skipped", 0)
        if not state:
            return
        for name, weight in self.weights.items():
            weight.data.copy_(state["weights"][name])
        moments = {k: state["moments"][name] for k, name in enumerate(self.weights) if name in state["moments"]}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.generator.set_state(torch.as_tensor(state["generator"], dtype=torch.uint8).cpu())


def _matrices(cameras: Cameras, like: Tensor) -> Tensor:
    """Camera-to-world matrices [B,16]."""
    return cameras.to_world.flatten(1).to(like)
