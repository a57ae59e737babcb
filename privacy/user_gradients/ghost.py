"""Ghost clipping: the clipped sum over users without any user's gradient of the encoder.

Hooks write [users, P] numbers down, P the encoder's parameters; for a wide encoder that is the memory of the step. Here one
backward pass records what went into each layer and what gradient came out of it; norms and the clipped sum follow from those
(``layer_gradients``). Li et al. (ICLR 2022) and Opacus go back through the network a second time, with the loss weighted by
the clip factors. This does not, on purpose: a second pass adds whatever gradient autograd finds, also of a parameter that
was used outside its layer, and the norms know nothing of that part (Opacus 1.6: up to 1.3 times the clip norm, silently).
What is summed here is what was measured, and nothing else.
"""

# torch is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from privacy.errors import SensitivityViolation
from privacy.user_gradients.engine import Report, refuse
from privacy.user_gradients.layer_gradients import LayerGradients, layer_gradients, reason_against


class GhostEncoder(nn.Module):
    """An encoder that records, during a pass, what its layers' gradients are made of.

    Args:
        encoder: put into training mode; parameters stay where they are.

    Raises:
        SensitivityViolation: a layer mixes users or has no rule, or two layers share a parameter.
    """

    loss_reduction = "sum"
    """Of the losses that are differentiated, as in Opacus' wrapper."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._layers = _layers_with_rules(encoder)
        self.encoder = encoder.train()
        self._inputs: dict[str, list[Tensor]] = {}
        self._outputs: dict[str, list[Tensor | None]] = {}
        self._handles: list[RemovableHandle] = [
            layer.register_forward_hook(self._recorder(name)) for name, layer in self._layers.items()
        ]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the encoder's own."""
        return self.encoder(*inputs, **named)

    def to_standard_module(self) -> nn.Module:
        """The encoder without the recorders."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()
        return self.encoder

    def forget(self) -> None:
        """Drop what a pass has recorded, and the gradients autograd has accumulated."""
        self._inputs.clear()
        self._outputs.clear()
        for parameter in self.encoder.parameters():
            parameter.grad = None

    def recorded(self, users: int, report: Report = refuse) -> dict[str, LayerGradients]:
        """The gradients of all layers after one forward and backward pass; a layer without any is left out.

        Args:
            users: of the pass.
            report: called if a layer was not called with one batch of these users; it is then left out.
        """
        found: dict[str, LayerGradients] = {}
        for name, layer in self._layers.items():
            calls = zip(self._inputs.get(name, []), self._outputs.get(name, []), strict=True)
            used = [(given, output) for given, output in calls if output is not None]
            if any(given.shape[0] != users or output.shape[0] != users for given, output in used):
                report(f"{name}: was not called with exactly one batch of {users} users")
            elif used:
                found[name] = layer_gradients(layer, [given for given, _ in used], [out for _, out in used])
        return found

    def parameters_of(self, name: str) -> list[str]:
        """Names of a layer's parameters among ``named_parameters()``, in the order of its rule."""
        prefix = f"encoder.{name}." if name else "encoder."
        return [prefix + own for own, _ in self._layers[name].named_parameters(recurse=False)]

    def _recorder(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if not layer.training or not torch.is_grad_enabled() or not output.requires_grad:
                return
            if len(given) != 1:
                raise SensitivityViolation(f"{name}: call layers with their input alone, by position")
            call = len(self._inputs.setdefault(name, []))
            outputs = self._outputs.setdefault(name, [])
            self._inputs[name].append(given[0].detach())
            outputs.append(None)

            def keep(gradient: Tensor) -> None:
                outputs[call] = gradient.detach()

            output.register_hook(keep)

        return record


def _layers_with_rules(encoder: nn.Module) -> dict[str, nn.Module]:
    """Layers that hold trainable parameters, in the order of ``named_parameters()``."""
    layers: dict[str, nn.Module] = {}
    owner: dict[int, str] = {}
    for name, module in encoder.named_modules():
        shown = name or "the encoder itself"
        if next(module.buffers(recurse=False), None) is not None:
            raise SensitivityViolation(
                f"no ghost clipping for this encoder: {shown} ({type(module).__name__}) keeps a state beside its "
                "parameters, which may carry one user to others"
            )
        own = list(module.parameters(recurse=False))
        if not any(parameter.requires_grad for parameter in own):
            continue
        reason = reason_against(module)
        if reason is None and not all(parameter.requires_grad for parameter in own):
            reason = "only a part of its parameters is trained"
        shared = next((owner[id(parameter)] for parameter in own if id(parameter) in owner), None)
        if shared is not None:
            reason = f"it shares a parameter with {shared}"
        if reason is not None:
            raise SensitivityViolation(
                f"no ghost clipping for this encoder: {shown} is a {type(module).__name__}, {reason}; "
                "use per-user gradients by hooks"
            )
        owner.update((id(parameter), shown) for parameter in own)
        layers[name] = module
    return layers
